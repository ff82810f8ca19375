// Command schemas holds deployment files against the code that really reads them: Compose's own loader, and the types of
// the Prometheus operator.
//
//	schemas compose FILE...       each is loaded as `docker compose config` does; prints the project as JSON
//	schemas monitoring < STREAM   every object of monitoring.coreos.com is decoded strictly; prints "KIND/NAME" of each
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	switch {
	case len(arguments) > 1 && arguments[0] == "compose":
		return compose(arguments[1:])
	case len(arguments) == 1 && arguments[0] == "monitoring":
		return operated(os.Stdin)
	}
	return errors.New("usage: schemas compose FILE... | schemas monitoring < STREAM")
}

func compose(files []string) error {
	options, err := cli.NewProjectOptions(files, cli.WithOsEnv, cli.WithInterpolation(true), cli.WithResolvedPaths(true))
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	told, err := project.MarshalJSON()
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(told)
	return err
}

// operated decodes what the operator would: a field that its types do not have is an error.
func operated(stream io.Reader) error {
	documents := kubeyaml.NewYAMLReader(bufio.NewReader(stream))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var head struct {
			v1.TypeMeta   `json:",inline"`
			v1.ObjectMeta `json:"metadata"`
		}
		if err := yaml.Unmarshal(document, &head); err != nil {
			return err
		}
		if head.APIVersion != monitoring.SchemeGroupVersion.String() {
			continue
		}
		var into any
		switch head.Kind {
		case monitoring.PodMonitorsKind:
			into = new(monitoring.PodMonitor)
		case monitoring.ServiceMonitorsKind:
			into = new(monitoring.ServiceMonitor)
		case monitoring.PrometheusRuleKind:
			into = new(monitoring.PrometheusRule)
		default:
			return fmt.Errorf("%s/%s: no such kind is known here", head.Kind, head.Name)
		}
		if err := yaml.UnmarshalStrict(document, into); err != nil {
			return fmt.Errorf("%s/%s: %w", head.Kind, head.Name, err)
		}
		if _, err := json.Marshal(into); err != nil {
			return err
		}
		fmt.Printf("%s/%s\n", head.Kind, head.Name)
	}
}
