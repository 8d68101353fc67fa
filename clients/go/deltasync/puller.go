package deltasync

import (
	"context"
	"strings"
	"time"

	v1 "deltasync.dev/client/v1"
)

const (
	targetsMax  = 256
	pullTimeout = 30 * time.Second
	deniedRetry = 2 * time.Minute
	backOff     = time.Duration(-1) // wait as after a failure
)

// Puller catches copies up by pulls: many in one call, a page of each in a reply (R12 to R21).
type Puller struct {
	Stub     v1.SyncServiceClient
	ClientID string
}

// Pull goes on until each copy is the server's collection, or is known to be gone. onPolled hears of
// collections that an inbox among them does not announce (R85).
func (p *Puller) Pull(ctx context.Context, copies []*Copy, onPolled func(*v1.PolledHead)) error {
	var backoff Backoff
	polledAfter := map[string]string{}
	for waiting := copies; len(waiting) > 0; {
		batch := waiting[:min(len(waiting), targetsMax)]
		outcomes, err := p.ask(ctx, batch, polledAfter)
		if err != nil {
			return err
		}
		var again []*Copy
		var delay time.Duration
		for i, outcome := range outcomes {
			done, wait := take(batch[i], outcome)
			for _, head := range outcome.Polled {
				onPolled(head)
				polledAfter[batch[i].Name] = head.Collection
			}
			if !done || outcome.PolledMore {
				again = append(again, batch[i])
			}
			switch wait {
			case backOff:
				wait = backoff.Next()
			case 0:
				backoff.Progress()
			}
			delay = max(delay, wait)
		}
		waiting = append(again, waiting[len(batch):]...)
		if len(waiting) > 0 && delay > 0 {
			if err := sleep(ctx, delay); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *Puller) ask(
	ctx context.Context, batch []*Copy, polledAfter map[string]string,
) ([]*v1.Outcome, error) {
	request := &v1.PullRequest{ClientId: p.ClientID}
	for _, c := range batch {
		request.Targets = append(request.Targets, &v1.Target{
			Collection: c.Name, Cursor: c.cursor, PolledAfter: polledAfter[c.Name],
		})
	}
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	answer, err := p.Stub.Pull(ctx, request)
	if err != nil {
		return nil, err
	}
	return answer.Outcomes[:min(len(answer.Outcomes), len(batch))], nil
}

// take says whether the copy has arrived, and how long to wait before the next pull.
func take(c *Copy, outcome *v1.Outcome) (bool, time.Duration) {
	switch result := outcome.Result.(type) {
	case *v1.Outcome_Aligned:
		c.Align(result.Aligned.Head)
		if c.IsLive() {
			return true, 0
		}
		return false, backOff
	case *v1.Outcome_Delta:
		switch c.Apply(result.Delta) {
		case Applied:
			return c.IsLive(), 0
		case Gap:
			c.StartOver("")
		}
		return false, backOff
	case *v1.Outcome_Reset_:
		c.StartOver(reason(result.Reset_))
		return false, 0
	case *v1.Outcome_NotFound:
		c.Vanish()
		return true, 0
	case *v1.Outcome_Denied: // minutes, not seconds
		return false, deniedRetry
	case *v1.Outcome_Failed:
		if wait := result.Failed.RetryAfterMs; wait > 0 {
			return false, time.Duration(wait) * time.Millisecond
		}
	}
	return false, backOff // deferred, failed for good, or an outcome that is not known
}

func reason(reset *v1.Reset) string {
	return strings.TrimPrefix(reset.GetReason().String(), "RESET_REASON_")
}
