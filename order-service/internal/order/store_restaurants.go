package order

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

func errNoRestaurant() error {
	return errs.New(errs.NotFound, "there is no restaurant with this id")
}

// listRestaurants lists by name, from the one after the given restaurant on.
func listRestaurants(ctx context.Context, q querier, after uuid.UUID, limit int) ([]Restaurant, error) {
	rows, err := q.Query(ctx, `select id, name, cuisine, address, open, currency from restaurants
		where $1 = '00000000-0000-0000-0000-000000000000'::uuid
			or (name, id) > (select a.name, a.id from restaurants a where a.id = $1)
		order by name, id limit $2`, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list restaurants: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByNameLax[Restaurant])
	if err != nil {
		return nil, fmt.Errorf("list restaurants: %w", err)
	}
	return list, nil
}

// findRestaurant reads a restaurant with its menu, or with those of the wanted
// items that are on it. One statement, so one moment: a menu that is replaced
// meanwhile is seen whole, before or after.
func findRestaurant(ctx context.Context, q querier, id uuid.UUID, wanted []uuid.UUID) (Restaurant, error) {
	rows, err := q.Query(ctx, `select r.id, r.name, r.cuisine, r.address, r.open, r.currency,
			coalesce(m.menu, '[]'::jsonb) as menu
		from restaurants r
		left join lateral (
			select jsonb_agg(jsonb_build_object('id', i.id, 'name', i.name, 'description', i.description,
				'price', i.price, 'available', i.available) order by i.position) as menu
			from menu_items i
			where i.restaurant_id = r.id and ($2::uuid[] is null or i.id = any($2))
		) m on true
		where r.id = $1`, id, wanted)
	if err != nil {
		return Restaurant{}, fmt.Errorf("read restaurant: %w", err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Restaurant])
	if errors.Is(err, pgx.ErrNoRows) {
		return Restaurant{}, errNoRestaurant()
	}
	if err != nil {
		return Restaurant{}, fmt.Errorf("read restaurant: %w", err)
	}
	return r, nil
}

// insertRestaurant adds r unless its id is taken, and tells which.
func insertRestaurant(ctx context.Context, tx *outbox.Tx, r Restaurant, now time.Time) (bool, error) {
	tag, err := tx.Exec(ctx, `insert into restaurants (id, name, cuisine, address, open, currency, created_at, updated_at)
		values ($1, $2, $3, $4, $5, $6, $7, $7) on conflict (id) do nothing`,
		r.ID, r.Name, r.Cuisine, r.Address, r.Open, r.Currency, now)
	if err != nil {
		return false, fmt.Errorf("insert restaurant: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

func updateRestaurant(ctx context.Context, tx *outbox.Tx, r Restaurant, now time.Time) error {
	tag, err := tx.Exec(ctx, `update restaurants set name = $2, cuisine = $3, address = $4, open = $5, currency = $6, updated_at = $7
		where id = $1`, r.ID, r.Name, r.Cuisine, r.Address, r.Open, r.Currency, now)
	if err != nil {
		return fmt.Errorf("update restaurant: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return errNoRestaurant()
	}
	return nil
}

// lockMenu keeps others from replacing a restaurant's menu and gives the ids of
// its items.
func lockMenu(ctx context.Context, tx *outbox.Tx, restaurant uuid.UUID) (map[uuid.UUID]bool, error) {
	var found bool
	err := tx.QueryRow(ctx, `select true from restaurants where id = $1 for no key update`, restaurant).Scan(&found)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errNoRestaurant()
	}
	if err != nil {
		return nil, fmt.Errorf("lock restaurant: %w", err)
	}
	// A statement of its own: it must see what whoever held the lock has written.
	rows, err := tx.Query(ctx, `select id from menu_items where restaurant_id = $1`, restaurant)
	if err != nil {
		return nil, fmt.Errorf("read menu: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("read menu: %w", err)
	}
	present := make(map[uuid.UUID]bool, len(ids))
	for _, id := range ids {
		present[id] = true
	}
	return present, nil
}

// replaceMenu deletes a restaurant's items and inserts these.
func replaceMenu(tx *outbox.Tx, restaurant uuid.UUID, items []MenuItem, now time.Time) {
	tx.Queue(`update restaurants set updated_at = $2 where id = $1`, restaurant, now)
	tx.Queue(`delete from menu_items where restaurant_id = $1`, restaurant)
	for i, m := range items {
		tx.Queue(`insert into menu_items (id, restaurant_id, position, name, description, price, available)
			values ($1, $2, $3, $4, $5, $6, $7)`, m.ID, restaurant, i, m.Name, m.Description, m.Price, m.Available)
	}
}
