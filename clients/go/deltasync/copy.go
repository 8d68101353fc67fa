package deltasync

import (
	"bytes"
	"maps"

	v1 "deltasync.dev/client/v1"
)

// Row is an item without its key.
type Row struct {
	Version, ValueVersion uint64
	SortKey, Value        []byte
}

// Rows are items, and the running sum of their digests (R48).
type Rows struct {
	Items map[string]Row
	Sum   Digest
}

// Verdict is what became of a delta.
type Verdict int

const (
	// Applied: the copy moved.
	Applied Verdict = iota
	// Repeat: the copy has it already.
	Repeat
	// Gap: something before it is missing, or it is of another life. Pull.
	Gap
	// Broken: a change that this client does not know (R6). Pull.
	Broken
	// Damaged: the copy is not what the server thinks. It starts over.
	Damaged
)

// Place is where readers stand; epoch 0: there is no such collection.
type Place struct{ Epoch, Version uint64 }

// Copy is what readers see of a collection, and what is being loaded beside it.
//
// A real client keeps rows and cursor in one database transaction (R7); here both change together
// after everything was checked.
type Copy struct {
	Name       string
	Rows       Rows
	Shown      *Place
	Resets     map[string]bool
	Mismatches int

	cursor    *v1.Cursor
	staged    *Rows // not nil: a load is under way, or begins with the next delta
	onArrival func(*Copy)
}

// NewCopy is an empty copy; onArrival is called whenever it is the server's collection.
func NewCopy(name string, onArrival func(*Copy)) *Copy {
	return &Copy{Name: name, Rows: noRows(), Resets: map[string]bool{}, staged: new(noRows()),
		onArrival: onArrival}
}

func noRows() Rows { return Rows{Items: map[string]Row{}} }

// IsLive says whether the copy was the server's collection when it was heard of last.
func (c *Copy) IsLive() bool {
	return c.cursor != nil && c.staged == nil && c.cursor.Base == 0
}

// Apply takes a delta if it fits behind the cursor (R22).
func (c *Copy) Apply(delta *v1.Delta) Verdict {
	if verdict := c.fits(delta.From, delta.To); verdict != Applied {
		return verdict
	}
	rows := c.staged
	if rows == nil {
		rows = &c.Rows
	}
	edits, sum, verdict := plan(rows, delta.Changes)
	if verdict == Damaged {
		c.StartOver("")
	}
	if verdict != Applied {
		return verdict
	}
	// Compare before readers see it (R49): what does not fit is never shown.
	if !delta.HasMore && len(delta.Digest) > 0 && !bytes.Equal(delta.Digest, sum.Bytes()) {
		c.mismatch()
		return Damaged
	}
	for key, row := range edits {
		if row == nil {
			delete(rows.Items, key)
		} else {
			rows.Items[key] = *row
		}
	}
	rows.Sum, c.cursor = sum, delta.To
	if !delta.HasMore {
		c.arrive()
	}
	return Applied
}

// fits judges a delta by its places alone.
func (c *Copy) fits(from, to *v1.Cursor) Verdict {
	at := c.cursor
	switch {
	case from == nil || to == nil:
		return Broken
	case at == nil && from.Version > 0:
		return Gap
	case at == nil:
		return Applied
	case from.Epoch != at.Epoch || to.Epoch != at.Epoch:
		return Gap
	case to.Version <= at.Version:
		return Repeat
	case from.Version > at.Version:
		return Gap
	case from.Base > from.Version && max(at.Version, at.Base) < from.Base:
		return Gap // a page of somebody else's load
	default:
		return Applied
	}
}

// Align takes the server's word that the cursor is the head (R7).
func (c *Copy) Align(head *v1.Head) {
	c.cursor = &v1.Cursor{Epoch: head.Epoch, Version: head.Version}
	c.Compare(head.Digest)
}

// Compare is called at the head: a load is finished, and the digest proves the copy or not.
func (c *Copy) Compare(digest []byte) {
	rows := c.staged
	if rows == nil {
		rows = &c.Rows
	}
	if len(digest) > 0 && !bytes.Equal(digest, rows.Sum.Bytes()) {
		c.mismatch()
	} else {
		c.arrive()
	}
}

// StartOver begins anew; readers keep the old items until the next load is finished (R37).
func (c *Copy) StartOver(reason string) {
	if reason != "" {
		c.Resets[reason] = true
	}
	c.cursor, c.staged = nil, new(noRows())
}

// Vanish: there is no such collection, the copy is empty and has no cursor.
func (c *Copy) Vanish() {
	c.StartOver("")
	c.Rows, c.Shown = noRows(), &Place{}
	c.onArrival(c)
}

func (c *Copy) mismatch() {
	c.Mismatches++
	c.StartOver("")
}

func (c *Copy) arrive() {
	if c.staged != nil {
		c.Rows, c.staged = *c.staged, nil
	}
	at := Place{c.cursor.Epoch, c.cursor.Version}
	if c.Shown == nil || *c.Shown != at {
		c.Shown = &at
		c.onArrival(c)
	}
}

// plan says what would be where (nil: nothing), and the sum then.
func plan(rows *Rows, changes []*v1.Change) (map[string]*Row, Digest, Verdict) {
	edits, sum := map[string]*Row{}, rows.Sum
	for _, change := range changes {
		key := string(change.Key)
		old, edited := edits[key]
		if row, found := rows.Items[key]; !edited && found {
			old = &row
		}
		var row *Row
		switch kind := change.Kind.(type) {
		case *v1.Change_Put:
			put := kind.Put
			row = &Row{change.Version, put.ValueVersion, put.SortKey, put.Value}
			if put.ValueOmitted { // R25, R26
				if old == nil || old.ValueVersion != put.ValueVersion {
					return nil, sum, Damaged
				}
				row.Value = old.Value
			}
		case *v1.Change_Delete, *v1.Change_LeftScope:
		default:
			return nil, sum, Broken
		}
		if old != nil {
			sum = sum.Sub(old.digest(key))
		}
		if row != nil {
			sum = sum.Add(row.digest(key))
		}
		edits[key] = row
	}
	return edits, sum, Applied
}

// Total is the digest of what readers see, computed anew.
func (c *Copy) Total() Digest {
	var sum Digest
	for key, row := range maps.All(c.Rows.Items) {
		sum = sum.Add(row.digest(key))
	}
	return sum
}

func (r *Row) digest(key string) Digest {
	return ItemDigest([]byte(key), r.Version, r.SortKey, r.Value)
}
