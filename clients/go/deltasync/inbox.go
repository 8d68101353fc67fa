package deltasync

import (
	"context"

	"google.golang.org/protobuf/proto"

	v1 "deltasync.dev/client/v1"
)

// Account keeps copies of a subject's inbox and of all that is in it (R82 to R89).
//
// It streams the inbox alone and pulls what it tells of (R126). What is to be caught up is worked off
// before anything else is heard; a client with a disk keeps that queue there (R120).
type Account struct {
	Inbox *Copy

	puller    *Puller
	copies    map[string]*Copy
	polled    map[string]*v1.InboxEntry // told of collections that do not write to inboxes
	onArrival func(*Copy)
}

// NewAccount is the account of a subject; onArrival is called whenever a copy has caught up.
func NewAccount(subject string, puller *Puller, onArrival func(*Copy)) *Account {
	return &Account{
		Inbox: NewCopy("inbox/"+subject, onArrival), puller: puller, onArrival: onArrival,
		copies: map[string]*Copy{}, polled: map[string]*v1.InboxEntry{},
	}
}

// Pull pulls the inbox, and then what it and the polled heads tell of.
func (a *Account) Pull(ctx context.Context) error {
	err := a.puller.Pull(ctx, []*Copy{a.Inbox}, func(head *v1.PolledHead) {
		a.polled[head.Collection] = head.Entry
	})
	if err != nil {
		return err
	}
	return a.CatchUp(ctx)
}

// OnNotice is told of a collection that moved and that the inbox does not announce.
func (a *Account) OnNotice(ctx context.Context, notice *v1.Notice) error {
	entry := &v1.InboxEntry{State: v1.InboxState_INBOX_STATE_DELETED}
	if head := notice.Head; head != nil {
		entry = &v1.InboxEntry{
			State: v1.InboxState_INBOX_STATE_EXISTS, Epoch: head.Epoch, Version: head.Version,
		}
	}
	a.polled[notice.Collection] = entry
	return a.CatchUp(ctx)
}

// CatchUp pulls what differs from what was told, and drops what is followed no more.
func (a *Account) CatchUp(ctx context.Context) error {
	for name, c := range a.copies {
		if _, followed := a.Inbox.Rows.Items[name]; !followed {
			delete(a.copies, name)
			c.Vanish()
		}
	}
	var behind []*Copy
	for name, row := range a.Inbox.Rows.Items {
		c := a.copies[name]
		if c == nil {
			c = NewCopy(name, a.onArrival)
			a.copies[name] = c
		}
		entry := &v1.InboxEntry{}
		if err := proto.Unmarshal(row.Value, entry); err != nil {
			return err
		}
		polled := a.polled[name]
		if !covers(c, entry) || polled != nil && !covers(c, polled) {
			behind = append(behind, c)
		}
	}
	clear(a.polled)
	return a.puller.Pull(ctx, behind, func(*v1.PolledHead) {})
}

// covers says whether the copy has what the entry tells of (R121).
func covers(c *Copy, entry *v1.InboxEntry) bool {
	if entry.State == v1.InboxState_INBOX_STATE_EXISTS {
		return c.IsLive() && c.cursor.Epoch == entry.Epoch && c.cursor.Version >= entry.Version
	}
	return c.cursor == nil && c.Shown != nil && *c.Shown == Place{}
}
