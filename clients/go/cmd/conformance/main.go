// Command conformance is the client under test of the conformance kit:
//
//	conformance ADDRESS CASE follow|inbox|write NAME
//
// It says in a JSON line where a copy stands each time it is caught up, and at the end of its input
// what it has met (conformance/README.md).
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"os"
	"slices"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"deltasync.dev/client/deltasync"
	v1 "deltasync.dev/client/v1"
)

const written = 10

type object = map[string]any

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: conformance ADDRESS CASE follow|inbox|write NAME")
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		log.Fatal(err)
	}
}

func run(address, client, mode, name string) error {
	connection, err := grpc.NewClient(
		address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	if mode == "write" {
		return write(v1.NewWriteServiceClient(connection), name)
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
		err := say("at", object{
			"collection": c.Name,
			"epoch":      strconv.FormatUint(c.Shown.Epoch, 10),
			"version":    strconv.FormatUint(c.Shown.Version, 10),
			"items":      len(c.Rows.Items),
			"digest":     c.Total().String(),
		})
		if err != nil {
			log.Fatal(err)
		}
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
			return err
		}
	}
	return say("done", object{"acknowledged": written})
}

func say(what string, line object) error {
	return json.NewEncoder(os.Stdout).Encode(object{what: line})
}
