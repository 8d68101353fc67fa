// Command generate makes the Go code of the protocol without a protoc: it compiles the .proto files
// itself and hands them to the two plugins that go.mod names as tools.
//
//	go run ./internal/generate PROTO_DIRECTORY OUT_DIRECTORY
package main

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

const goPackage = "deltasync.dev/client/v1"

var sources = []string{
	"deltasync/v1/types.proto",
	"deltasync/v1/sync_service.proto",
	"deltasync/v1/write_service.proto",
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: generate PROTO_DIRECTORY OUT_DIRECTORY")
	}
	request, err := compile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for _, plugin := range []string{"protoc-gen-go", "protoc-gen-go-grpc"} {
		if err := run(plugin, request, os.Args[2]); err != nil {
			log.Fatalf("%s: %v", plugin, err)
		}
	}
}

// compile reads the protocol into what protoc would hand to a plugin.
func compile(dir string) ([]byte, error) {
	compiler := protocompile.Compiler{
		Resolver: protocompile.WithStandardImports(
			&protocompile.SourceResolver{ImportPaths: []string{dir}}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	files, err := compiler.Compile(context.Background(), sources...)
	if err != nil {
		return nil, err
	}
	var protos []*descriptorpb.FileDescriptorProto
	seen := map[string]bool{}
	for _, file := range files {
		protos = inOrder(file, seen, protos)
	}
	parameter := "paths=source_relative"
	for _, source := range sources {
		parameter += ",M" + source + "=" + goPackage
	}
	return proto.Marshal(&pluginpb.CodeGeneratorRequest{
		FileToGenerate: sources, Parameter: &parameter, ProtoFile: protos,
	})
}

// inOrder appends a file behind those that it imports.
func inOrder(
	file protoreflect.FileDescriptor, seen map[string]bool, to []*descriptorpb.FileDescriptorProto,
) []*descriptorpb.FileDescriptorProto {
	if seen[file.Path()] {
		return to
	}
	seen[file.Path()] = true
	imports := file.Imports()
	for i := range imports.Len() {
		to = inOrder(imports.Get(i).FileDescriptor, seen, to)
	}
	return append(to, protodesc.ToFileDescriptorProto(file))
}

func run(plugin string, request []byte, out string) error {
	command := exec.Command("go", "tool", plugin)
	command.Stdin, command.Stderr = bytes.NewReader(request), os.Stderr
	answer, err := command.Output()
	if err != nil {
		return err
	}
	var response pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(answer, &response); err != nil {
		return err
	}
	if response.Error != nil {
		return fmt.Errorf("%s", strings.TrimSpace(*response.Error))
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for _, file := range response.File {
		to := filepath.Join(out, path.Base(file.GetName()))
		if err := os.WriteFile(to, []byte(file.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
