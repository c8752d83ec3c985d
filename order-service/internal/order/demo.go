package order

import (
	"context"

	"github.com/google/uuid"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// demoID gives the fixed ids of the demo catalogue: restaurants end in 001, 002
// and 003, their items in 101, 102, ... 201, ... 301.
func demoID(last string) uuid.UUID {
	return uuid.MustParse("01900000-0000-7000-8000-000000000" + last)
}

// demoCatalogue is what SEED_DEMO_DATA stores. The README's commands use these
// ids, so they never change.
func demoCatalogue() []Restaurant {
	return []Restaurant{
		{
			ID: demoID("001"), Name: "Saffron & Smoke", Cuisine: "Indian", Address: "12 Curry Lane, Berlin", Open: true, Currency: "EUR",
			Menu: []MenuItem{
				{ID: demoID("101"), Name: "Dal Makhani", Description: "Black lentils, slowly cooked with butter", Price: 950, Available: true},
				{ID: demoID("102"), Name: "Paneer Tikka", Description: "Grilled cheese, peppers, mint chutney", Price: 1150, Available: true},
				{ID: demoID("103"), Name: "Garlic Naan", Description: "From the tandoor", Price: 350, Available: true},
				{ID: demoID("104"), Name: "Mango Lassi", Description: "Sold out until the next harvest", Price: 450, Available: false},
			},
		},
		{
			ID: demoID("002"), Name: "Napoli Express", Cuisine: "Italian", Address: "3 Piazza Street, Berlin", Open: true, Currency: "EUR",
			Menu: []MenuItem{
				{ID: demoID("201"), Name: "Margherita", Description: "Tomato, mozzarella, basil", Price: 890, Available: true},
				{ID: demoID("202"), Name: "Diavola", Description: "Spicy salami", Price: 1090, Available: true},
				{ID: demoID("203"), Name: "Tiramisù", Description: "", Price: 590, Available: true},
			},
		},
		{
			ID: demoID("003"), Name: "Tokyo Bento", Cuisine: "Japanese", Address: "7 Sakura Road, Berlin", Open: true, Currency: "JPY",
			Menu: []MenuItem{
				{ID: demoID("301"), Name: "鮭弁当 Salmon Bento", Description: "Grilled salmon, rice, pickles", Price: 1280, Available: true},
				{ID: demoID("302"), Name: "Karaage Bento", Description: "Fried chicken, rice, lemon", Price: 1180, Available: true},
				{ID: demoID("303"), Name: "Miso Soup", Description: "Tofu, wakame", Price: 250, Available: true},
			},
		},
	}
}

// SeedDemo stores the demo restaurants that are not there yet. One that is
// there stays as it is, whatever an Admin made of it.
func (s *Service) SeedDemo(ctx context.Context) error {
	return s.db.InTx(ctx, func(tx *outbox.Tx) error {
		now := instant(s.now())
		for _, r := range demoCatalogue() {
			added, err := insertRestaurant(ctx, tx, r, now)
			if err != nil {
				return err
			}
			if added {
				replaceMenu(tx, r.ID, r.Menu, now)
			}
		}
		return nil
	})
}
