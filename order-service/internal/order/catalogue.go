package order

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// Restaurants lists restaurants by name, from the one after the given one on.
func (s *Service) Restaurants(ctx context.Context, after uuid.UUID, limit int) ([]Restaurant, error) {
	return listRestaurants(ctx, s.db.Pool, after, limit)
}

// Restaurant returns a restaurant with its menu.
func (s *Service) Restaurant(ctx context.Context, id uuid.UUID) (Restaurant, error) {
	return findRestaurant(ctx, s.db.Pool, id, nil)
}

// AddRestaurant stores a restaurant, whose menu is still empty.
func (s *Service) AddRestaurant(ctx context.Context, in RestaurantInput) (Restaurant, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Restaurant{}, fmt.Errorf("make restaurant id: %w", err)
	}
	r, err := in.restaurant(id)
	if err != nil {
		return Restaurant{}, err
	}
	err = s.db.InTx(ctx, func(tx *outbox.Tx) error {
		_, err := insertRestaurant(ctx, tx, r, instant(s.now()))
		return err
	})
	r.Menu = []MenuItem{}
	return r, err
}

// ChangeRestaurant stores everything about a restaurant but its menu. Orders
// keep the name and the currency they were placed with.
func (s *Service) ChangeRestaurant(ctx context.Context, id uuid.UUID, in RestaurantInput) (Restaurant, error) {
	r, err := in.restaurant(id)
	if err != nil {
		return Restaurant{}, err
	}
	err = s.db.InTx(ctx, func(tx *outbox.Tx) error {
		if err := updateRestaurant(ctx, tx, r, instant(s.now())); err != nil {
			return err
		}
		var err error
		r, err = findRestaurant(ctx, tx, id, nil)
		return err
	})
	return r, err
}

// ReplaceMenu stores a whole new menu. Items that are not on it can no longer
// be ordered; orders that contain them stay as they are.
func (s *Service) ReplaceMenu(ctx context.Context, id uuid.UUID, in MenuInput) (Restaurant, error) {
	if err := in.validate(); err != nil {
		return Restaurant{}, err
	}
	var r Restaurant
	err := s.db.InTx(ctx, func(tx *outbox.Tx) error {
		present, err := lockMenu(ctx, tx, id)
		if err != nil {
			return err
		}
		items, err := in.items(present, func() uuid.UUID { return uuid.Must(uuid.NewV7()) })
		if err != nil {
			return err
		}
		replaceMenu(tx, id, items, instant(s.now()))
		r, err = findRestaurant(ctx, tx, id, nil)
		return err
	})
	return r, err
}
