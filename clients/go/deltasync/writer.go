package deltasync

import (
	"context"
	"crypto/rand"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	v1 "deltasync.dev/client/v1"
)

const commitTimeout = 10 * time.Second

// Put is a mutation that creates or replaces an item.
func Put(collection string, key, value []byte) *v1.Mutation {
	return &v1.Mutation{
		Collection: collection,
		Op:         &v1.Mutation_Put{Put: &v1.PutItem{Key: key, Value: value}},
	}
}

// Commit applies all of the mutations or none. All attempts bear one key, so that a commit whose
// answer was lost is not applied twice (R58, R59).
func Commit(
	ctx context.Context, stub v1.WriteServiceClient, mutations ...*v1.Mutation,
) (*v1.CommitResponse, error) {
	request := &v1.CommitRequest{Mutations: mutations, IdempotencyKey: rand.Text()}
	var backoff Backoff
	for {
		attempt, cancel := context.WithTimeout(ctx, commitTimeout)
		answer, err := stub.Commit(attempt, request)
		cancel()
		if err == nil || !mayPass(err) {
			return answer, err
		}
		if err := sleep(ctx, backoff.Next()); err != nil {
			return nil, err
		}
	}
}

func mayPass(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.Unknown, codes.Canceled, codes.DeadlineExceeded, codes.Internal,
		codes.ResourceExhausted:
		return true
	}
	return false
}
