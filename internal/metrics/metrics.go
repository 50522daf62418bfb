// Package metrics counts what happens, and writes that, and what is measured when somebody
// asks, in the text formats of Prometheus and of OpenMetrics. It doesn't know what the
// numbers are about.
package metrics

import (
	"io"
	"net/http"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// A Kind says what may become of a number.
type Kind int

// The kinds of numbers that a Set has.
const (
	Gauge   Kind = iota // goes up and down
	Counter             // goes up until the daemon ends; the name ends in _total
	Unknown             // a counter whose name without _total is that of another family, which OpenMetrics forbids
)

// A Family is all numbers of one name, which differ by their labels.
type Family struct {
	Name, Help string
	Kind       Kind
}

// Labels say what a number is about, in the order of their names.
type Labels []*dto.LabelPair

// Labeled makes labels of names and values, one after another.
func Labeled(pairs ...string) Labels { return Labels(nil).With(pairs...) }

// With adds labels. Those that it adds to stay as they are.
func (l Labels) With(pairs ...string) Labels {
	out := make(Labels, len(l), len(l)+len(pairs)/2)
	copy(out, l)
	for i := 0; i+1 < len(pairs); i += 2 {
		value := strings.ToValidUTF8(pairs[i+1], "�")
		out = append(out, &dto.LabelPair{Name: &pairs[i], Value: &value})
	}
	slices.SortFunc(out, func(a, b *dto.LabelPair) int { return strings.Compare(*a.Name, *b.Name) })
	return out
}

// A Set is what one answer tells.
type Set struct {
	families map[string]*dto.MetricFamily
}

// Add adds a number to those of a family.
func (s *Set) Add(f Family, value float64, labels Labels) {
	in := s.families[f.Name]
	if in == nil {
		kind := dto.MetricType_GAUGE
		switch f.Kind {
		case Counter:
			kind = dto.MetricType_COUNTER
		case Unknown:
			kind = dto.MetricType_UNTYPED
		}
		in = &dto.MetricFamily{Name: &f.Name, Help: &f.Help, Type: &kind}
		if s.families == nil {
			s.families = map[string]*dto.MetricFamily{}
		}
		s.families[f.Name] = in
	}
	m := &dto.Metric{Label: labels}
	switch f.Kind {
	case Counter:
		m.Counter = &dto.Counter{Value: &value}
	case Unknown:
		m.Untyped = &dto.Untyped{Value: &value}
	default:
		m.Gauge = &dto.Gauge{Value: &value}
	}
	in.Metric = append(in.Metric, m)
}

// Merge adds the families of what was counted. The set has none of these names yet.
func (s *Set) Merge(families []*dto.MetricFamily) {
	if s.families == nil {
		s.families = map[string]*dto.MetricFamily{}
	}
	for _, f := range families {
		s.families[f.GetName()] = f
	}
}

// Rename gives families whose names begin with one word another one.
func (s *Set) Rename(from, to string) {
	for _, f := range s.families {
		if rest, ok := strings.CutPrefix(f.GetName(), from); ok {
			name := to + rest
			f.Name = &name
		}
	}
}

// Write writes the set by name, in the format that a request accepts; without any, in the
// text format of Prometheus, which goes on with the last line of OpenMetrics: it shows that
// nothing is missing.
func (s *Set) Write(w io.Writer, f Format) error {
	all := make([]*dto.MetricFamily, 0, len(s.families))
	for _, f := range s.families {
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	e := expfmt.NewEncoder(w, expfmt.Format(f))
	for _, one := range all {
		if err := e.Encode(one); err != nil {
			return err
		}
	}
	if c, ok := e.(expfmt.Closer); ok {
		if err := c.Close(); err != nil {
			return err
		}
	}
	if expfmt.Format(f).FormatType() != expfmt.TypeTextPlain {
		return nil
	}
	_, err := expfmt.FinalizeOpenMetrics(w)
	return err
}

// A Format is one of those that a set is written in, as a Content-Type.
type Format string

// Accepted chooses the format by the headers of a request.
func Accepted(h http.Header) Format {
	f := expfmt.NegotiateAccept(h, expfmt.DefaultOpenMetricsAcceptedFormats()...)
	switch f.FormatType() {
	case expfmt.TypeOpenMetrics, expfmt.TypeTextPlain:
		return Format(f)
	}
	return Format(expfmt.NewFormat(expfmt.TypeTextPlain))
}
