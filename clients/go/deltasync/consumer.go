package deltasync

import (
	"context"
	"fmt"
	"time"

	v1 "deltasync.dev/client/v1"
)

// Consumer hands changes on and keeps no copy: the server holds the place (R110 to R116).
type Consumer struct {
	Stub       v1.SyncServiceClient
	ClientID   string
	Collection string
	// HandOn has done its work, durably, when it returns. anew: what comes, up to the last page, is
	// all that there is; what it does not mention does not exist. A consumer that dies before its ack
	// is handed the same again.
	HandOn func(delta *v1.Delta, anew bool) error
}

// CatchUp takes everything behind the last ack. A *Refusal: by the server, for good; also an ack that
// it does not take (R112).
func (c *Consumer) CatchUp(ctx context.Context) error {
	target := &v1.Target{Collection: c.Collection, FromLastAck: true}
	anew := false
	var backoff Backoff
	for {
		outcome, err := c.pull(ctx, target)
		if err != nil {
			return err
		}
		var wait time.Duration
		switch result := outcome.Result.(type) {
		case *v1.Outcome_Delta:
			delta := result.Delta
			anew = anew || delta.Initial && delta.From.GetVersion() == 0
			if err := c.take(ctx, delta, anew); err != nil || !delta.HasMore {
				return err
			}
			target = &v1.Target{Collection: c.Collection, Cursor: delta.To}
			backoff.Progress()
			continue
		case *v1.Outcome_Aligned:
			head := result.Aligned.Head
			return c.ack(ctx, &v1.Cursor{Epoch: head.GetEpoch(), Version: head.GetVersion()})
		case *v1.Outcome_Reset_: // what is held cannot be continued: without it, from the start
			target, anew = &v1.Target{Collection: c.Collection}, true
			continue
		case *v1.Outcome_NotFound:
			return nil
		case *v1.Outcome_Denied:
			wait = deniedRetry
		case *v1.Outcome_Failed:
			wait = time.Duration(result.Failed.RetryAfterMs) * time.Millisecond
		}
		if err := sleep(ctx, wait+backoff.Next()); err != nil {
			return err
		}
	}
}

func (c *Consumer) take(ctx context.Context, delta *v1.Delta, anew bool) error {
	if err := c.HandOn(delta, anew); err != nil {
		return err
	}
	if anew && delta.HasMore {
		return nil // a load counts when it is whole
	}
	return c.ack(ctx, delta.To)
}

func (c *Consumer) pull(ctx context.Context, target *v1.Target) (*v1.Outcome, error) {
	request := &v1.PullRequest{Targets: []*v1.Target{target}, ClientId: c.ClientID}
	call := func(ctx context.Context) (*v1.PullResponse, error) { return c.Stub.Pull(ctx, request) }
	answer, err := repeat(ctx, pullTimeout, call)
	if err == nil && len(answer.Outcomes) != 1 {
		err = fmt.Errorf("%d outcomes of one target", len(answer.Outcomes))
	}
	if err != nil {
		return nil, err
	}
	return answer.Outcomes[0], nil
}

func (c *Consumer) ack(ctx context.Context, cursor *v1.Cursor) error {
	acked := []*v1.AckedCursor{{Collection: c.Collection, Cursor: cursor}}
	request := &v1.AckRequest{ClientId: c.ClientID, Acked: acked}
	_, err := repeat(ctx, pullTimeout, func(ctx context.Context) (*v1.AckResponse, error) {
		return c.Stub.Ack(ctx, request)
	})
	return err
}
