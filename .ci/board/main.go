// Holds a board against Grafana's own schema: names and types that Grafana would not know. What is
// merely left out, Grafana fills with its defaults.
//
//	go run . FILE
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// What the schema calls a field that is left out.
const leftOut = "required field is missing from input"

func findings(err error) []string {
	var found []string
	for _, line := range strings.Split(err.Error(), "\n") {
		if !strings.Contains(line, leftOut) {
			found = append(found, line)
		}
	}
	return found
}

func check(file string) ([]string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	// Without this the options of panels would not be looked into.
	plugins.RegisterDefaultPlugins()
	var board dashboard.Dashboard
	var found []string
	if err := board.UnmarshalJSONStrict(text); err != nil {
		found = append(found, findings(err)...)
	}
	if err := board.Validate(); err != nil {
		found = append(found, findings(err)...)
	}
	if len(board.Panels) == 0 {
		found = append(found, "it has no panels")
	}
	return found, nil
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: board FILE")
		os.Exit(2)
	}
	found, err := check(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	for _, line := range found {
		fmt.Println(line)
	}
	if len(found) > 0 {
		os.Exit(1)
	}
}
