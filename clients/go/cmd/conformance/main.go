// Command conformance is the client under test of the conformance kit:
//
//	conformance ADDRESS CASE MODE NAME
//
// It says in a JSON line where a copy stands each time it is caught up, and at the end of its input
// what it has met (conformance/README.md).
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"os"
	"slices"
	"strconv"

	"google.golang.org/grpc/codes"

	"deltasync.dev/client/deltasync"
	v1 "deltasync.dev/client/v1"
)

const (
	written       = 10
	imported      = 8
	importedBytes = 700_000
	rows          = 10
)

type object = map[string]any

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: conformance ADDRESS CASE MODE NAME")
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		log.Fatal(err)
	}
}

func run(address, client, mode, name string) error {
	connection, err := deltasync.Connect(
		address, os.Getenv("DELTASYNC_CA_FILE"), os.Getenv("DELTASYNC_TOKEN"))
	if err != nil {
		return err
	}
	defer connection.Close()
	switch mode {
	case "write":
		return write(v1.NewWriteServiceClient(connection), name)
	case "import":
		return load(v1.NewWriteServiceClient(connection), client, name)
	case "resume":
		return resume(v1.NewSyncServiceClient(connection), client, name)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan struct{})
	met := map[*deltasync.Copy]bool{}
	go func() {
		defer close(ended)
		keep(ctx, v1.NewSyncServiceClient(connection), client, mode, name, met)
	}()
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	cancel()
	<-ended
	resets, mismatches := map[string]bool{}, 0
	for c := range met {
		maps.Copy(resets, c.Resets)
		mismatches += c.Mismatches
	}
	names := slices.AppendSeq([]string{}, maps.Keys(resets))
	return say("done", object{"resets": names, "mismatches": mismatches})
}

// keep keeps copies until the context ends.
func keep(
	ctx context.Context, stub v1.SyncServiceClient, client, mode, name string,
	met map[*deltasync.Copy]bool,
) {
	arrived := func(c *deltasync.Copy) {
		met[c] = true
		at(c.Name, *c.Shown, len(c.Rows.Items), c.Total())
	}
	if mode == "window" {
		window := &deltasync.Window{
			Stub: stub, ClientID: client, Collection: name, Size: rows, OnArrival: shown,
		}
		window.Run(ctx)
		return
	}
	puller := &deltasync.Puller{Stub: stub, ClientID: client}
	follower := &deltasync.Follower{Stub: stub, ClientID: client}
	if mode == "inbox" {
		account := deltasync.NewAccount(name, puller, arrived)
		follower.Copies = []*deltasync.Copy{account.Inbox}
		follower.OnNotice = account.OnNotice
		follower.After = func(ctx context.Context, _ *deltasync.Copy) error {
			return account.CatchUp(ctx)
		}
		follower.Run(ctx, account.Pull)
		return
	}
	c := deltasync.NewCopy(name, arrived)
	met[c] = true
	follower.Copies = []*deltasync.Copy{c}
	follower.Run(ctx, func(ctx context.Context) error {
		return puller.Pull(ctx, follower.Copies, func(*v1.PolledHead) {})
	})
}

func write(stub v1.WriteServiceClient, name string) error {
	for number := range written {
		key, value := fmt.Appendf(nil, "item %d", number), fmt.Appendf(nil, "value %d", number)
		put := deltasync.Put(name, key, value)
		if _, err := deltasync.Commit(context.Background(), stub, put); err != nil {
			return say("done", object{"acknowledged": number, "refused": refusal(err)})
		}
	}
	return say("done", object{"acknowledged": written})
}

func load(stub v1.WriteServiceClient, id, name string) error {
	var commits [][]*v1.Mutation
	for number := 1; number <= imported; number++ {
		key, value := fmt.Appendf(nil, "item %d", number), fmt.Appendf(nil, "value %d ", number)
		value = append(value, bytes.Repeat([]byte("."), importedBytes-len(value))...)
		commits = append(commits, []*v1.Mutation{deltasync.Put(name, key, value)})
	}
	durable, err := deltasync.Import(context.Background(), stub, id, commits)
	return say("done", object{"acknowledged": durable, "refused": refusal(err)})
}

func resume(stub v1.SyncServiceClient, client, name string) error {
	consumer := &deltasync.Consumer{Stub: stub, ClientID: client, Collection: name}
	consumer.HandOn = func(delta *v1.Delta, anew bool) error {
		keys := map[bool][]string{true: {}, false: {}}
		for _, change := range delta.Changes {
			there := change.GetPut() != nil
			keys[there] = append(keys[there], string(change.Key))
		}
		return say("took", object{"anew": anew, "put": keys[true], "gone": keys[false]})
	}
	err := consumer.CatchUp(context.Background())
	return say("done", object{"refused": refusal(err)})
}

// refusal is what can be read in an error.
func refusal(err error) any {
	var told *deltasync.Refusal
	if !errors.As(err, &told) {
		return nil
	}
	fields, quotas := append([]string{}, told.Fields...), []string{}
	quotas = slices.AppendSeq(quotas, maps.Keys(told.Quotas))
	return object{
		"code": names[told.Code], "reason": told.Reason, "fields": fields, "quotas": quotas,
	}
}

// names are those of the protocol; Go writes codes in its own way.
var names = map[codes.Code]string{
	codes.InvalidArgument: "INVALID_ARGUMENT", codes.PermissionDenied: "PERMISSION_DENIED",
	codes.ResourceExhausted: "RESOURCE_EXHAUSTED", codes.Unavailable: "UNAVAILABLE",
	codes.FailedPrecondition: "FAILED_PRECONDITION", codes.Unauthenticated: "UNAUTHENTICATED",
}

func shown(w *deltasync.Window) {
	at(w.Collection, *w.Shown, len(w.Rows()), w.Digest())
}

func at(collection string, place deltasync.Place, items int, digest deltasync.Digest) {
	err := say("at", object{
		"collection": collection,
		"epoch":      strconv.FormatUint(place.Epoch, 10),
		"version":    strconv.FormatUint(place.Version, 10),
		"items":      items,
		"digest":     digest.String(),
	})
	if err != nil {
		log.Fatal(err)
	}
}

func say(what string, line object) error {
	return json.NewEncoder(os.Stdout).Encode(object{what: line})
}
