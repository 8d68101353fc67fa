package deltasync

import (
	"context"
	"crypto/rand"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	v1 "deltasync.dev/client/v1"
)

const (
	commitTimeout = 10 * time.Second
	importTimeout = time.Hour // its stream decides how long it takes
)

// Put is a mutation that creates or replaces an item.
func Put(collection string, key, value []byte) *v1.Mutation {
	return &v1.Mutation{
		Collection: collection,
		Op:         &v1.Mutation_Put{Put: &v1.PutItem{Key: key, Value: value}},
	}
}

// Commit applies all of the mutations or none. All attempts bear one key, so that a commit whose
// answer was lost is not applied twice (R58, R59). What cannot succeed ends at once with a *Refusal,
// what did not after so many attempts.
func Commit(
	ctx context.Context, stub v1.WriteServiceClient, mutations ...*v1.Mutation,
) (*v1.CommitResponse, error) {
	request := &v1.CommitRequest{Mutations: mutations, IdempotencyKey: rand.Text()}
	return repeat(ctx, commitTimeout, func(ctx context.Context) (*v1.CommitResponse, error) {
		return stub.Commit(ctx, request)
	})
}

// Import applies commits in order, and says how many are durable (R61, R62). What breaks off goes on
// behind what is durable. After an error the same call with the same id goes on from there.
func Import(
	ctx context.Context, stub v1.WriteServiceClient, id string, commits [][]*v1.Mutation,
) (uint64, error) {
	var durable uint64
	again := false
	_, err := repeat(ctx, importTimeout, func(ctx context.Context) (uint64, error) {
		if again {
			found, err := imported(ctx, stub, id)
			if err != nil {
				return 0, err
			}
			durable = found
		}
		again = true
		if durable == uint64(len(commits)) {
			return durable, nil
		}
		answer, err := importFrom(ctx, stub, id, commits, durable)
		durable = max(durable, answer.GetSequence())
		return durable, err
	})
	if err != nil {
		find := func(ctx context.Context) (uint64, error) { return imported(ctx, stub, id) }
		if found, lost := repeat(ctx, commitTimeout, find); lost == nil {
			durable = found
		}
	}
	return durable, err
}

func importFrom(
	ctx context.Context, stub v1.WriteServiceClient, id string, commits [][]*v1.Mutation,
	durable uint64,
) (*v1.ImportResponse, error) {
	stream, err := stub.Import(ctx)
	if err != nil {
		return nil, err
	}
	for at, mutations := range commits[durable:] {
		part := &v1.ImportRequest{
			ImportId: id, Sequence: durable + uint64(at) + 1, Mutations: mutations,
		}
		if stream.Send(part) != nil {
			break // the server has ended it, and says below why
		}
	}
	return stream.CloseAndRecv()
}

// imported is how many commits of an import are durable.
func imported(ctx context.Context, stub v1.WriteServiceClient, id string) (uint64, error) {
	answer, err := stub.GetImport(ctx, &v1.GetImportRequest{ImportId: id})
	if status.Code(err) == codes.NotFound {
		return 0, nil
	}
	return answer.GetSequence(), err
}
