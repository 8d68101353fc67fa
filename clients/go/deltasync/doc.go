// Package deltasync is a small deltasync client: copies of collections, a subject's inbox, commits.
//
//	copy.go      what a copy is, and how deltas change it (no network)
//	puller.go    catches copies up by pulls
//	follower.go  keeps copies live on a stream
//	inbox.go     keeps everything that a subject follows
//	writer.go    commits
//
// Rule numbers (R22) are those of docs/PROTOCOL.md. The generated code, package v1, is made by
// go generate.
package deltasync

//go:generate go run ../internal/generate ../../../proto ../v1
