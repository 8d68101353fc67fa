package deltasync

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	v1 "deltasync.dev/client/v1"
)

const (
	reserve       = 2     // windows of rows that are held: what goes is replaced at once
	heldMax       = 4     // windows of rows: with more than this the stretch is chosen anew
	windowChanges = 1_000 // after a longer absence the list is read anew, which costs less (R103)
)

// Window keeps the first rows of a list that is too large to be copied (R63 to R68, R100 to R108).
//
// It holds keys and places of a stretch from the beginning of the list on, by a stream; contents of
// what is shown are fetched by key when they are needed.
type Window struct {
	Stub       v1.SyncServiceClient
	ClientID   string
	Collection string
	Size       int
	// OnArrival is called when places and contents are of one version.
	OnArrival func(*Window)

	Shown *Place

	held         map[string]*held
	cursor       *v1.Cursor
	end          *v1.OrderPlace // the first place behind the stretch; nil: it ends with the list
	completeFrom uint64         // the listing is a state of the collection from this version on
	moved        bool
}

// held is a row; its value counts once it is known.
type held struct {
	Row
	known bool
}

// Entry is a row that is shown.
type Entry struct {
	Key string
	Row
}

// Rows are what is shown, in list order.
func (w *Window) Rows() []Entry {
	entries := make([]Entry, 0, len(w.held))
	for key, row := range w.held {
		entries = append(entries, Entry{key, row.Row})
	}
	slices.SortFunc(entries, func(a, b Entry) int {
		return cmp.Or(bytes.Compare(a.SortKey, b.SortKey), cmp.Compare(a.Key, b.Key))
	})
	return entries[:min(len(entries), w.Size)]
}

// Digest is that of the rows in their order: of an item that is made of theirs.
func (w *Window) Digest() Digest {
	if w.cursor == nil {
		return Digest{}
	}
	var digests []byte
	for _, entry := range w.Rows() {
		digests = append(digests, entry.digest(entry.Key).Bytes()...)
	}
	return ItemDigest([]byte("window"), w.cursor.Version, nil, digests)
}

// Run lists and follows in turn until the context ends.
func (w *Window) Run(ctx context.Context) {
	run(ctx, w.list, w.follow, &w.moved)
}

// list reads the stretch, unless its cursor can be continued.
func (w *Window) list(ctx context.Context) error {
	if w.cursor != nil {
		return nil
	}
	wanted := reserve*w.Size + 1
	request := &v1.ListItemsRequest{
		Collection: w.Collection, Order: v1.ListOrder_LIST_ORDER_SORT_KEY, KeysOnly: true,
	}
	var items []*v1.Item
	var first, last *v1.Head
	for more := true; more && len(items) < wanted; {
		request.PageSize = uint32(wanted - len(items))
		page, err := w.page(ctx, request)
		if status.Code(err) == codes.NotFound {
			w.vanish()
			return nil
		}
		if err != nil {
			return err
		}
		items = append(items, page.Items...)
		if first == nil {
			first = page.Head
		}
		last, request.PageToken, more = page.Head, page.NextPageToken, len(page.NextPageToken) > 0
	}
	w.end = nil
	if len(request.PageToken) > 0 && len(items) > 0 { // up to before the last one that was read
		behind := items[len(items)-1]
		items = items[:len(items)-1]
		w.end = &v1.OrderPlace{SortKey: behind.SortKey, Key: behind.Key}
	}
	before := w.held
	w.held = map[string]*held{}
	for _, item := range items {
		w.put(before, string(item.Key), Row{item.Version, item.ValueVersion, item.SortKey, nil})
	}
	// What was listed is caught up from the head of the first page (R104).
	w.cursor = &v1.Cursor{Epoch: first.GetEpoch(), Version: first.GetVersion()}
	w.completeFrom = last.GetVersion()
	return nil
}

func (w *Window) page(
	ctx context.Context, request *v1.ListItemsRequest,
) (*v1.ListItemsResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	return w.Stub.ListItems(ctx, request)
}

// put takes a row, with the content that was known of it.
func (w *Window) put(before map[string]*held, key string, row Row) {
	old, known := before[key]
	known = known && old.known && old.ValueVersion == row.ValueVersion
	if known {
		row.Value = old.Value
	}
	w.held[key] = &held{row, known}
}

// follow goes on until something is to be listed anew (0), or the stream opened again after a wait.
func (w *Window) follow(ctx context.Context) (time.Duration, error) {
	target := &v1.Target{Collection: w.Collection}
	if w.cursor == nil {
		target.NotifyOnly = true // until there is such a collection
	} else {
		target.Cursor, target.KeysOnly, target.MaxChanges = w.cursor, true, windowChanges
		stretch := &v1.OrderRange{To: w.end}
		target.Scope = &v1.Scope{Part: &v1.Scope_Order{Order: stretch}}
	}
	request := &v1.SubscribeRequest{
		Targets: []*v1.Target{target}, ClientId: w.ClientID,
		HeartbeatMs: uint32(heartbeat.Milliseconds()),
	}
	return listen(ctx, w.Stub, request, w.take)
}

// take says whether the stream is over, and how long to wait then.
func (w *Window) take(
	ctx context.Context, message *v1.SubscribeResponse,
) (wait time.Duration, over bool, err error) {
	switch message := message.Message.(type) {
	case *v1.SubscribeResponse_Goodbye:
		return goodbyeWait(message.Goodbye), true, nil
	case *v1.SubscribeResponse_Failed:
		return time.Duration(message.Failed.Failure.GetRetryAfterMs()) * time.Millisecond, true, nil
	case *v1.SubscribeResponse_Revoked:
		return deniedRetry, true, nil
	}
	goesOn, err := w.goesOn(ctx, message)
	if err == nil && !goesOn {
		w.cursor = nil
	}
	return 0, !goesOn, err
}

// goesOn says whether the stretch can be continued.
func (w *Window) goesOn(ctx context.Context, message *v1.SubscribeResponse) (bool, error) {
	if w.cursor == nil {
		targets := message.GetAccepted().GetTargets()
		created := len(targets) > 0 && targets[0].Head != nil
		return !created && message.GetNotice() == nil, nil
	}
	switch message := message.Message.(type) {
	case *v1.SubscribeResponse_Accepted:
		switch message.Accepted.Targets[0].Plan {
		case v1.Plan_PLAN_LIVE:
			return w.arrive(ctx)
		case v1.Plan_PLAN_CATCH_UP:
			return true, nil
		}
		return false, nil
	case *v1.SubscribeResponse_Changes:
		return w.apply(ctx, message.Changes.Delta)
	case *v1.SubscribeResponse_CaughtUp:
		return w.moveTo(ctx, message.CaughtUp.Cursor)
	case *v1.SubscribeResponse_Bookmark: // changes elsewhere move the cursor without a delta (R42)
		for _, position := range message.Bookmark.Positions {
			if goesOn, err := w.moveTo(ctx, position.Cursor); !goesOn || err != nil {
				return goesOn, err
			}
		}
	case *v1.SubscribeResponse_Reset_, *v1.SubscribeResponse_Absent:
		return false, nil
	}
	return true, nil // Lagging, or something that a newer server says (R6)
}

func (w *Window) apply(ctx context.Context, delta *v1.Delta) (bool, error) {
	from, to, at := delta.GetFrom(), delta.GetTo(), w.cursor
	if from.GetEpoch() != at.Epoch || to.GetEpoch() != at.Epoch || from.GetVersion() > at.Version {
		return false, nil // a gap, or another life
	}
	if to.Version <= at.Version {
		return true, nil // a repeat
	}
	for _, change := range delta.Changes {
		key := string(change.Key)
		switch kind := change.Kind.(type) {
		case *v1.Change_Put:
			put := kind.Put
			w.put(w.held, key, Row{change.Version, put.ValueVersion, put.SortKey, nil})
		case *v1.Change_Delete, *v1.Change_LeftScope:
			delete(w.held, key)
		default:
			return false, nil // a change that this client does not know (R6)
		}
	}
	w.cursor, w.moved = to, true
	if delta.HasMore {
		return true, nil
	}
	return w.arrive(ctx)
}

func (w *Window) moveTo(ctx context.Context, to *v1.Cursor) (bool, error) {
	if to.GetEpoch() != w.cursor.Epoch {
		return false, nil
	}
	if to.Version >= w.cursor.Version {
		w.cursor = to
	}
	return w.arrive(ctx)
}

// arrive is called at the head. false: the stretch has too few rows now, or too many.
func (w *Window) arrive(ctx context.Context) (bool, error) {
	if w.cursor.Version < w.completeFrom {
		return true, nil
	}
	few := w.end != nil && len(w.held) < w.Size
	if few || len(w.held) > heldMax*w.Size {
		return false, nil
	}
	if err := w.fetch(ctx); err != nil {
		return true, err
	}
	at := Place{w.cursor.Epoch, w.cursor.Version}
	if len(w.missing()) == 0 && (w.Shown == nil || *w.Shown != at) {
		w.Shown = &at
		w.OnArrival(w)
	}
	return true, nil
}

func (w *Window) vanish() {
	w.held, w.cursor = map[string]*held{}, nil
	if w.Shown == nil || *w.Shown != (Place{}) {
		w.Shown = &Place{}
		w.OnArrival(w)
	}
}

// missing are the keys of shown rows whose contents are not there.
func (w *Window) missing() (keys [][]byte) {
	for _, entry := range w.Rows() {
		if !w.held[entry.Key].known {
			keys = append(keys, []byte(entry.Key))
		}
	}
	return keys
}

// fetch gets contents of what is shown. What has moved on meanwhile comes by the stream, and again
// here.
func (w *Window) fetch(ctx context.Context) error {
	for keys := w.missing(); len(keys) > 0; {
		request := &v1.GetItemsRequest{Collection: w.Collection, Keys: keys}
		answer, err := w.Stub.GetItems(ctx, request)
		if err != nil {
			return err
		}
		for _, result := range answer.Results {
			item := result.GetFound()
			row := w.held[string(item.GetKey())]
			if row != nil && row.ValueVersion == item.ValueVersion {
				row.Value, row.known = item.Value, true
			}
		}
		keys = keys[min(max(len(answer.Results), 1), len(keys)):] // a reply ends at 1 MiB (R67)
	}
	return nil
}
