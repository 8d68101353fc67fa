package deltasync

import (
	"context"
	"crypto/rand"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	v1 "deltasync.dev/client/v1"
)

const (
	commitTimeout = 10 * time.Second
	askedWaitMax  = time.Hour // longer waits are mistakes
)

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
		if err := sleep(ctx, askedWait(err)+backoff.Next()); err != nil {
			return nil, err
		}
	}
}

// askedWait is how long the server asks to stay away, at least (R128).
func askedWait(err error) time.Duration {
	for _, detail := range status.Convert(err).Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			return min(max(retry.GetRetryDelay().AsDuration(), 0), askedWaitMax)
		}
	}
	return 0
}

func mayPass(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.Unknown, codes.Canceled, codes.DeadlineExceeded, codes.Internal,
		codes.ResourceExhausted:
		return true
	}
	return false
}
