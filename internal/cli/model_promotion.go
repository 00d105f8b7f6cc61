package cli

import (
	"time"

	"blkd/internal/api"
	"blkd/metadata/metapb"
)

// Promotion is the result of promote.
type Promotion struct {
	Kind        string       `json:"kind"` // none, first, handover, failover or forced
	DryRun      bool         `json:"dry_run"`
	From        string       `json:"from"`   // primary before; empty: none
	To          string       `json:"to"`     // primary after; dry run: empty if it would be refused
	Losses      []string     `json:"losses"` // acknowledged writes that are lost; empty: none
	Tails       []string     `json:"tails"`  // what is cut off and was never acknowledged; empty: nothing
	Reasons     []string     `json:"reasons"`
	Candidates  []Candidate  `json:"candidates"`   // every replica, best first
	TookSeconds *float64     `json:"took_seconds"` // until it served; dry run: estimated; null: unknown
	Certificate *Certificate `json:"certificate"`  // null: dry run, or nothing was to do
	Volume      *Volume      `json:"volume"`
}

// Candidate is a replica and its fitness.
type Candidate struct {
	Node       string  `json:"node"`
	Eligible   bool    `json:"eligible"`
	End        *LogEnd `json:"end"` // null: it does not answer
	DurableSeq uint64  `json:"durable_seq"`
	CommitSeq  uint64  `json:"commit_seq"`
	Why        string  `json:"why"`
}

// LogEnd is a place in a volume's log.
type LogEnd struct {
	Generation uint64 `json:"generation"`
	Seq        uint64 `json:"seq"`
}

// Certificate is on what a promotion rests; metadata/metapb/certificate.proto says
// what it proves.
type Certificate struct {
	Kind           string            `json:"kind"`
	Before         RecordNumber      `json:"before"`
	After          RecordNumber      `json:"after"`
	OldPrimary     string            `json:"old_primary"`
	NewPrimary     string            `json:"new_primary"`
	NewIncarnation string            `json:"new_incarnation"`
	Members        []CertifiedMember `json:"members"`
	Acks           int               `json:"acks"`
	Needed         int               `json:"needed"`
	Committed      *LogEnd           `json:"committed"`
	Chosen         string            `json:"chosen"`
	ChosenEnd      *LogEnd           `json:"chosen_end"`
	Cut            []Tail            `json:"cut"`
	Lease          string            `json:"lease"` // none, released or expired
	LeaseEnded     *time.Time        `json:"lease_ended"`
	Asked          *time.Time        `json:"asked"`
	Sealed         *time.Time        `json:"sealed"`
	Serving        *time.Time        `json:"serving"`
	KeptBranch     string            `json:"kept_branch"` // forced: the volume that keeps the losing branch
}

// RecordNumber names one version of a volume's record.
type RecordNumber struct {
	Lineage    string `json:"lineage"`
	Generation uint64 `json:"generation"`
	Number     uint64 `json:"number"`
}

// CertifiedMember is what a member answered when it promised the generation.
type CertifiedMember struct {
	Node        string     `json:"node"`
	Incarnation string     `json:"incarnation"`
	Sealed      bool       `json:"sealed"`
	End         *LogEnd    `json:"end"`
	DurableSeq  uint64     `json:"durable_seq"`
	CommitSeq   uint64     `json:"commit_seq"`
	Time        *time.Time `json:"time"`
	Silent      string     `json:"silent"` // why it did not promise
}

// Tail is the part of a member's log that was cut off.
type Tail struct {
	Node       string `json:"node"`
	Generation uint64 `json:"generation"`
	FirstSeq   uint64 `json:"first_seq"`
	LastSeq    uint64 `json:"last_seq"`
}

func newPromotion(in *api.Promotion) Promotion {
	out := Promotion{Kind: api.PromotionWord(in.Kind), DryRun: in.DryRun, From: in.From, To: in.To,
		Losses: some(in.Losses), Tails: some(in.Tails), Reasons: some(in.Reasons), Candidates: make([]Candidate, 0, len(in.Candidates)),
		TookSeconds: seconds(in.Took), Certificate: newCertificate(in.Certificate)}
	for _, c := range in.Candidates {
		out.Candidates = append(out.Candidates, Candidate{Node: c.Node, Eligible: c.Eligible, End: newLogEnd(c.End),
			DurableSeq: c.DurableSeq, CommitSeq: c.CommitSeq, Why: c.Why})
	}
	if in.Volume != nil {
		v := newVolume(in.Volume)
		out.Volume = &v
	}
	return out
}

func newLogEnd(e *metapb.LogEnd) *LogEnd {
	if e == nil {
		return nil
	}
	return &LogEnd{Generation: e.Generation, Seq: e.Seq}
}

func newRecordNumber(r *metapb.RecordNumber) RecordNumber {
	return RecordNumber{Lineage: hex(r.GetLineage()), Generation: r.GetGeneration(), Number: r.GetNumber()}
}

func newCertificate(c *metapb.Certificate) *Certificate {
	if c == nil {
		return nil
	}
	out := &Certificate{
		Kind: api.PromotionWord(c.Kind), Before: newRecordNumber(c.Before), After: newRecordNumber(c.After),
		OldPrimary: c.OldPrimary, NewPrimary: c.NewPrimary, NewIncarnation: hex(c.NewIncarnation),
		Members: make([]CertifiedMember, 0, len(c.Members)), Acks: int(c.Acks), Needed: int(c.Needed),
		Committed: newLogEnd(c.Committed), Chosen: c.Chosen, ChosenEnd: newLogEnd(c.ChosenEnd), Cut: make([]Tail, 0, len(c.Cut)),
		Lease: api.LeaseWord(c.Lease), LeaseEnded: instant(c.LeaseEnded),
		Asked: instant(c.Asked), Sealed: instant(c.Sealed), Serving: instant(c.Serving), KeptBranch: c.KeptBranch,
	}
	for _, m := range c.Members {
		out.Members = append(out.Members, CertifiedMember{Node: m.Node, Incarnation: hex(m.Incarnation), Sealed: m.Sealed, End: newLogEnd(m.End),
			DurableSeq: m.DurableSeq, CommitSeq: m.CommitSeq, Time: instant(m.Time), Silent: m.Silent})
	}
	for _, t := range c.Cut {
		out.Cut = append(out.Cut, Tail{Node: t.Node, Generation: t.Generation, FirstSeq: t.FirstSeq, LastSeq: t.LastSeq})
	}
	return out
}
