package order

import "github.com/google/uuid"

// maxMenu is how many items a menu may have.
const maxMenu = 500

// Restaurant is where food comes from. Menu is nil in lists.
type Restaurant struct {
	ID       uuid.UUID  `json:"id"`
	Name     string     `json:"name"`
	Cuisine  string     `json:"cuisine"`
	Address  string     `json:"address"`
	Open     bool       `json:"open"`
	Currency string     `json:"currency"` // ISO 4217; prices of the menu are its minor units
	Menu     []MenuItem `json:"menu,omitzero"`
}

// MenuItem is something that can be ordered.
type MenuItem struct {
	ID          uuid.UUID `json:"id"`
	Name        string    `json:"name"`
	Description string    `json:"description"`
	Price       int64     `json:"price"`
	Available   bool      `json:"available"`
}

// RestaurantInput is what an Admin says about a restaurant. Open is a pointer
// because leaving it out is a mistake, not a closed restaurant.
type RestaurantInput struct {
	Name     string `json:"name"`
	Cuisine  string `json:"cuisine"`
	Address  string `json:"address"`
	Open     *bool  `json:"open"`
	Currency string `json:"currency"`
}

func (in RestaurantInput) restaurant(id uuid.UUID) (Restaurant, error) {
	var bad problems
	bad.line("/name", in.Name, 1, maxLine)
	bad.line("/cuisine", in.Cuisine, 1, maxLine)
	bad.line("/address", in.Address, 1, maxLine)
	if in.Open == nil {
		bad.add("/open", "is required")
	}
	if !isCurrency(in.Currency) {
		bad.add("/currency", "must be an ISO 4217 code such as EUR")
	}
	if err := bad.err(); err != nil {
		return Restaurant{}, err
	}
	return Restaurant{ID: id, Name: in.Name, Cuisine: in.Cuisine, Address: in.Address, Open: *in.Open, Currency: in.Currency}, nil
}

// MenuInput is a whole new menu.
type MenuInput struct {
	Menu []MenuItemInput `json:"menu"`
}

// MenuItemInput is one item of a new menu; with the ID of an item of the
// present menu it stays that item.
type MenuItemInput struct {
	ID          *uuid.UUID `json:"id"`
	Name        string     `json:"name"`
	Description string     `json:"description"`
	Price       int64      `json:"price"`
	Available   *bool      `json:"available"`
}

func (in MenuInput) validate() error {
	var bad problems
	if in.Menu == nil {
		bad.add("/menu", "is required")
	}
	if len(in.Menu) > maxMenu {
		bad.add("/menu", "must hold at most %d items", maxMenu)
		return bad.err()
	}
	first := make(map[uuid.UUID]int, len(in.Menu))
	for i, m := range in.Menu {
		if m.ID != nil {
			if j, twice := first[*m.ID]; twice {
				bad.add(pointer("menu", i, "id"), "is the same as in item %d", j)
			}
			first[*m.ID] = i
		}
		bad.line(pointer("menu", i, "name"), m.Name, 1, maxLine)
		bad.text(pointer("menu", i, "description"), m.Description, 500)
		if m.Price < 1 || m.Price > MaxAmount {
			bad.add(pointer("menu", i, "price"), "must be from 1 to %d minor units", MaxAmount)
		}
		if m.Available == nil {
			bad.add(pointer("menu", i, "available"), "is required")
		}
	}
	return bad.err()
}

// items gives the new menu, whose ids are those of present items or new.
func (in MenuInput) items(present map[uuid.UUID]bool, newID func() uuid.UUID) ([]MenuItem, error) {
	var bad problems
	items := make([]MenuItem, 0, len(in.Menu))
	for i, m := range in.Menu {
		item := MenuItem{Name: m.Name, Description: m.Description, Price: m.Price, Available: *m.Available}
		switch {
		case m.ID == nil:
			item.ID = newID()
		case present[*m.ID]:
			item.ID = *m.ID
		default:
			bad.add(pointer("menu", i, "id"), "is no item of the present menu; leave id out for a new item")
		}
		items = append(items, item)
	}
	return items, bad.err()
}
