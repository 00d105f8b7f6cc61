package node

import "blkd/internal/api"

// certificateProblems is what is wrong, or soon will be, with the certificates
// that this node has in use.
func (m *member) certificateProblems() []*api.Problem {
	if m.certs == nil {
		return nil
	}
	var problems []*api.Problem
	for _, p := range m.certs.Problems() {
		problems = append(problems, &api.Problem{Code: p.Code, Text: p.Text, Advice: p.Advice})
	}
	return problems
}
