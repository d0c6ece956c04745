// promcheck reads Prometheus' files of rules and Grafana's dashboards with Prometheus' own code: the checks of
// `promtool check rules`, and its parser of queries. It prints one JSON value a line for each query: the metrics in it,
// with the labels and the values that it asks for. promtool itself takes ten times as long to build.
//
//	promcheck FILE...    rules in *.yaml, dashboards in *.json
package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

// selector is a metric in a query.
type selector struct {
	Metric string `json:"metric"`
	// Labels has the values that each label may have; none if any.
	Labels map[string][]string `json:"labels"`
}

type query struct {
	File  string `json:"file"`
	Query string `json:"query"`
	// Series are the metrics.
	Series []selector `json:"series"`
	// Groups are the labels by which the query groups and joins.
	Groups []string `json:"groups"`
}

var prometheus = parser.NewParser(parser.Options{})

// Grafana's own variables of times stand where Prometheus wants a time; the dashboard's stand in strings.
var times = regexp.MustCompile(`\$__(rate_interval|interval|range)`)

// Grafana's questions for the values of a variable.
var values = regexp.MustCompile(`^label_values\((.+), *([a-z_]+)\)$`)

func read(file, text string) (query, error) {
	found := query{File: filepath.Base(file), Query: text, Series: []selector{}, Groups: []string{}}
	if of := values.FindStringSubmatch(text); of != nil {
		text = of[1]
		found.Groups = append(found.Groups, of[2])
	}
	expression, err := prometheus.ParseExpr(times.ReplaceAllString(text, "5m"))
	if err != nil {
		return found, fmt.Errorf("%s: %q: %w", file, text, err)
	}
	parser.Inspect(expression, func(node parser.Node, _ []parser.Node) error {
		switch node := node.(type) {
		case *parser.VectorSelector:
			of := selector{Metric: node.Name, Labels: map[string][]string{}}
			for _, matcher := range node.LabelMatchers {
				if matcher.Name == model.MetricNameLabel {
					continue
				}
				of.Labels[matcher.Name] = []string{}
				if strings.Contains(matcher.Value, "$") {
					continue
				}
				switch matcher.Type {
				case labels.MatchEqual, labels.MatchNotEqual:
					of.Labels[matcher.Name] = []string{matcher.Value}
				case labels.MatchRegexp, labels.MatchNotRegexp:
					of.Labels[matcher.Name] = strings.Split(matcher.Value, "|")
				}
			}
			found.Series = append(found.Series, of)
		case *parser.AggregateExpr:
			found.Groups = append(found.Groups, node.Grouping...)
		case *parser.BinaryExpr:
			if node.VectorMatching != nil {
				found.Groups = append(found.Groups, node.VectorMatching.MatchingLabels...)
				found.Groups = append(found.Groups, node.VectorMatching.Include...)
			}
		}
		return nil
	})
	return found, nil
}

// rules are the queries of a file of rules.
func rules(file string) ([]string, []error) {
	groups, errs := rulefmt.ParseFile(file, false, model.UTF8Validation, prometheus, slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		return nil, errs
	}
	var found []string
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			found = append(found, rule.Expr)
		}
	}
	return found, nil
}

// expressions collects the queries below a value of a dashboard.
func expressions(value any, found *[]string) {
	switch value := value.(type) {
	case []any:
		for _, one := range value {
			expressions(one, found)
		}
	case map[string]any:
		for key, one := range value {
			text, isText := one.(string)
			// A variable's query may also be an object with the text in `query`.
			if isText && (key == "expr" || key == "query" && strings.HasPrefix(text, "label_values(")) {
				*found = append(*found, text)
			} else {
				expressions(one, found)
			}
		}
	}
}

func dashboard(file string) ([]string, []error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, []error{err}
	}
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		return nil, []error{fmt.Errorf("%s: %w", file, err)}
	}
	var found []string
	expressions(value, &found)
	return found, nil
}

func main() {
	failed := false
	out := json.NewEncoder(os.Stdout)
	for _, file := range os.Args[1:] {
		of := rules
		if strings.HasSuffix(file, ".json") {
			of = dashboard
		}
		queries, errs := of(file)
		for _, text := range queries {
			found, err := read(file, text)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			if err := out.Encode(found); err != nil {
				errs = append(errs, err)
			}
		}
		for _, err := range errs {
			fmt.Fprintln(os.Stderr, err)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}
