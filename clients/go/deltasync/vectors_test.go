package deltasync

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "deltasync.dev/client/v1"
)

// Items of the collection that reconcile.json tells of.
const reconciled = 2000

type place struct{ Epoch, Version, Base string }

func vectors(t *testing.T, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../../proto/vectors", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, what string, found, told any) {
	t.Helper()
	if !reflect.DeepEqual(found, told) {
		t.Errorf("%s: %v is not %v", what, found, told)
	}
}

func bytesOf(t *testing.T, text string) []byte {
	t.Helper()
	found, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestDigestsAreThoseOfTheVectors(t *testing.T) {
	var told struct {
		Items []struct {
			Name, Key, Version string
			SortKey            string `json:"sort_key"`
			Value              string
			ItemDigest         string `json:"item_digest"`
			Segment, Group     uint16
		}
		Collections []struct {
			Name, Digest string
			Items        []string
		}
	}
	vectors(t, "digest", &told)
	found := map[string]Digest{}
	for _, item := range told.Items {
		version, err := strconv.ParseUint(item.Version, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		key := bytesOf(t, item.Key)
		digest := ItemDigest(key, version, bytesOf(t, item.SortKey), bytesOf(t, item.Value))
		found[item.Name] = digest
		equal(t, item.Name, digest.String(), item.ItemDigest)
		equal(t, item.Name, Segment(key), item.Segment)
		equal(t, item.Name, Segment(key)/64, item.Group)
	}
	for _, collection := range told.Collections {
		var sum Digest
		for _, name := range collection.Items {
			sum = sum.Add(found[name])
		}
		equal(t, collection.Name, sum.String(), collection.Digest)
	}
}

func TestSumsAreThoseOfTheVectors(t *testing.T) {
	type entry struct {
		Key, Version string
		ValueHash    string `json:"value_hash"`
		SortKey      string `json:"sort_key"`
		ValueSize    int    `json:"value_size"`
	}
	var told struct {
		GroupSums []string `json:"group_sums"`
		LeafSums  struct {
			Group int
			Sums  []string
		} `json:"leaf_sums"`
		Entries struct {
			Segment uint16
			Entries []entry
		}
	}
	vectors(t, "reconcile", &told)
	var leaves [4096]Digest
	var groups [64]Digest
	var entries []entry
	for n := range reconciled {
		key, value := fmt.Appendf(nil, "item %d", n), fmt.Appendf(nil, "value %d", n)
		sortKey := fmt.Append(nil, n%7)
		leaf, digest := Segment(key), ItemDigest(key, uint64(n+1), sortKey, value)
		leaves[leaf] = leaves[leaf].Add(digest)
		groups[leaf/64] = groups[leaf/64].Add(digest)
		if leaf == told.Entries.Segment {
			entries = append(entries, entry{
				hex.EncodeToString(key), strconv.Itoa(n + 1), hex.EncodeToString(ValueHash(value)),
				hex.EncodeToString(sortKey), len(value),
			})
		}
	}
	for i, sum := range told.GroupSums {
		equal(t, fmt.Sprint("group ", i), groups[i].String(), sum)
	}
	for i, sum := range told.LeafSums.Sums {
		equal(t, fmt.Sprint("leaf ", i), leaves[64*told.LeafSums.Group+i].String(), sum)
	}
	slices.SortFunc(entries, func(a, b entry) int { return slices.Compare([]byte(a.Key), []byte(b.Key)) })
	equal(t, "entries", entries, told.Entries.Entries)
}

func placeOf(cursor *v1.Cursor) place {
	text := func(number uint64) string { return strconv.FormatUint(number, 10) }
	return place{text(cursor.Epoch), text(cursor.Version), text(cursor.Base)}
}

func TestCursorsAreThoseOfTheVectors(t *testing.T) {
	var told struct {
		Cursors []struct {
			place
			Name, Encoded string
		}
	}
	vectors(t, "cursors", &told)
	for _, one := range told.Cursors {
		cursor := &v1.Cursor{}
		if err := proto.Unmarshal(bytesOf(t, one.Encoded), cursor); err != nil {
			t.Fatal(err)
		}
		equal(t, one.Name, placeOf(cursor), one.place)
		again, err := proto.Marshal(cursor)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, one.Name, hex.EncodeToString(again), one.Encoded)
	}
}

func TestPagesDoWhatTheVectorsSay(t *testing.T) {
	var told struct {
		Copies []struct {
			Name  string
			Pages []struct {
				To             place
				Changes        int
				Verdict, Delta string
				Arrived        *struct {
					Items  int
					Digest string
				}
			}
		}
	}
	vectors(t, "pages", &told)
	verdicts := map[string]Verdict{"applied": Applied, "repeat": Repeat, "gap": Gap}
	for _, one := range told.Copies {
		c := NewCopy(one.Name, func(*Copy) {})
		for _, page := range one.Pages {
			delta := &v1.Delta{}
			if err := proto.Unmarshal(bytesOf(t, page.Delta), delta); err != nil {
				t.Fatal(err)
			}
			equal(t, one.Name, len(delta.Changes), page.Changes)
			verdict := c.Apply(delta)
			equal(t, one.Name, verdict, verdicts[page.Verdict])
			if verdict == Applied {
				equal(t, one.Name, placeOf(c.cursor), page.To)
			}
			if arrived := page.Arrived; arrived != nil && verdict == Applied {
				equal(t, one.Name, c.IsLive(), true)
				equal(t, one.Name, len(c.Rows.Items), arrived.Items)
				equal(t, one.Name, c.Total().String(), arrived.Digest)
			}
		}
	}
}
