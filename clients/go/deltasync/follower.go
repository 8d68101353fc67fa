package deltasync

import (
	"context"
	"math/rand/v2"
	"time"

	v1 "deltasync.dev/client/v1"
)

const (
	heartbeat    = 15 * time.Second
	acceptWithin = 20 * time.Second
)

// Follower keeps copies live on one stream (R38 to R45).
type Follower struct {
	Stub     v1.SyncServiceClient
	ClientID string
	Copies   []*Copy
	// OnNotice hears of collections that an inbox does not announce.
	OnNotice func(context.Context, *v1.Notice) error
	// After is called when a delta has been applied and the copy is live.
	After func(context.Context, *Copy) error

	moved bool
}

// Follow goes on until a pull is needed (0), or the stream is to be opened again after a wait.
func (f *Follower) Follow(ctx context.Context) (time.Duration, error) {
	request := &v1.SubscribeRequest{
		HeartbeatMs: uint32(heartbeat.Milliseconds()), ClientId: f.ClientID,
	}
	for _, c := range f.Copies {
		request.Targets = append(request.Targets, &v1.Target{Collection: c.Name, Cursor: c.cursor})
	}
	return listen(ctx, f.Stub, request, f.take)
}

// listen hands on what a stream says until that is over, it ends, or is silent for too long (R41).
func listen(
	ctx context.Context, stub v1.SyncServiceClient, request *v1.SubscribeRequest,
	take func(context.Context, *v1.SubscribeResponse) (time.Duration, bool, error),
) (time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	patience := acceptWithin
	silence := time.AfterFunc(patience, cancel)
	defer silence.Stop()
	stream, err := stub.Subscribe(ctx, request)
	if err != nil {
		return backOff, err
	}
	for {
		message, err := stream.Recv()
		if err != nil {
			return backOff, err
		}
		if accepted := message.GetAccepted(); accepted != nil {
			patience = 3 * time.Duration(accepted.HeartbeatMs) * time.Millisecond
		}
		silence.Reset(patience)
		wait, over, err := take(ctx, message)
		if err != nil || over {
			return wait, err
		}
	}
}

// take says whether the stream is over, and how long to wait then.
func (f *Follower) take(
	ctx context.Context, message *v1.SubscribeResponse,
) (wait time.Duration, over bool, err error) {
	switch message := message.Message.(type) {
	case *v1.SubscribeResponse_Accepted:
		return 0, !f.accepted(message.Accepted.Targets), nil
	case *v1.SubscribeResponse_Changes:
		c := f.copy(message.Changes.Collection)
		switch c.Apply(message.Changes.Delta) {
		case Applied:
			f.moved = true
		case Repeat:
		default:
			return 0, true, nil // a gap: pull
		}
		if c.IsLive() && f.After != nil {
			err = f.After(ctx, c)
		}
		return backOff, false, err
	case *v1.SubscribeResponse_Bookmark:
		return 0, !f.marked(message.Bookmark.Positions), nil
	case *v1.SubscribeResponse_Notice:
		if f.OnNotice != nil {
			err = f.OnNotice(ctx, message.Notice)
		}
		return backOff, false, err
	case *v1.SubscribeResponse_Absent:
		f.copy(message.Absent.Collection).Vanish()
	case *v1.SubscribeResponse_Reset_:
		f.copy(message.Reset_.Collection).StartOver(reason(message.Reset_.Reset_))
		return 0, true, nil
	case *v1.SubscribeResponse_Revoked:
		return 0, true, nil // the pull says so again, and waits
	case *v1.SubscribeResponse_Failed:
		return time.Duration(message.Failed.Failure.GetRetryAfterMs()) * time.Millisecond, true, nil
	case *v1.SubscribeResponse_Goodbye:
		return goodbyeWait(message.Goodbye), true, nil
	}
	return 0, false, nil // Lagging, CaughtUp, or something that a newer server says (R6)
}

// accepted says whether the stream goes on.
func (f *Follower) accepted(targets []*v1.AcceptedTarget) bool {
	for _, target := range targets {
		c := f.copy(target.Collection)
		switch target.Plan {
		case v1.Plan_PLAN_LIVE:
			c.Compare(target.Head.GetDigest())
			if !c.IsLive() {
				return false
			}
		case v1.Plan_PLAN_RESET:
			c.StartOver(reason(target.Reset_))
			return false
		case v1.Plan_PLAN_ABSENT:
			c.Vanish()
		case v1.Plan_PLAN_DENIED:
			return false
		}
	}
	return true
}

// marked says whether the stream goes on: no push was lost, and digests fit (R42).
func (f *Follower) marked(positions []*v1.Position) bool {
	for _, position := range positions {
		c, there := f.copy(position.Collection), position.Cursor
		here := c.cursor
		if here == nil || there.Epoch != here.Epoch || there.Version > here.Version {
			return false
		}
		if there.Version == here.Version && here.Base == 0 {
			c.Compare(position.Digest)
			if !c.IsLive() {
				return false
			}
		}
	}
	return true
}

// copy is that of a target; what the server says of anything else is of no use.
func (f *Follower) copy(name string) *Copy {
	for _, c := range f.Copies {
		if c.Name == name {
			return c
		}
	}
	return NewCopy(name, func(*Copy) {})
}

// goodbyeWait is as long as the server says, and a random part (R44).
func goodbyeWait(goodbye *v1.Goodbye) time.Duration {
	wait := goodbye.RetryAfterMs + rand.Uint64N(goodbye.JitterMs+1)
	return time.Duration(wait) * time.Millisecond
}

// Run pulls and follows in turn until the context ends.
func (f *Follower) Run(ctx context.Context, pull func(context.Context) error) {
	run(ctx, pull, f.Follow, &f.moved)
}

func run(
	ctx context.Context, pull func(context.Context) error,
	follow func(context.Context) (time.Duration, error), moved *bool,
) {
	var backoff Backoff
	hurried := false
	for ctx.Err() == nil {
		wait, err := backOff, pull(ctx)
		if err == nil {
			wait, err = follow(ctx)
		}
		if *moved {
			*moved, hurried = false, false
			backoff.Progress()
		}
		if err != nil {
			wait = waitAfter(RefusalOf(err), &backoff)
		}
		if wait == backOff || wait == 0 && hurried { // what did not help is no hurry (R37)
			wait = backoff.Next()
		}
		hurried = wait == 0
		if sleep(ctx, wait) != nil {
			return
		}
	}
}

// waitAfter is how long to stay away after a refusal: as the server asks, and a random part (R128).
func waitAfter(refusal *Refusal, backoff *Backoff) time.Duration {
	switch {
	case !refusal.MayPass():
		return deniedRetry // as after Denied: somebody must do something first (R127)
	case refusal.Asked:
		return refusal.AskedWait + backoff.Next()
	}
	return backOff
}
