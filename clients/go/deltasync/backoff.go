package deltasync

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	firstWindow   = 200 * time.Millisecond
	longestWindow = 30 * time.Second
)

// Backoff tells waits between attempts: exponential, with full jitter (R45).
type Backoff struct{ doublings int }

// Next is the wait before the next attempt.
func (b *Backoff) Next() time.Duration {
	window := min(firstWindow<<min(b.doublings, 10), longestWindow)
	b.doublings++
	return rand.N(window)
}

// Progress: something has moved, which is more than a mere connection.
func (b *Backoff) Progress() { b.doublings = 0 }

// sleep waits, or says that the client is to end.
func sleep(ctx context.Context, wait time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(wait):
		return nil
	}
}
