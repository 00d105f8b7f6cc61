package cli

import (
	"bytes"
	"io"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"blkd/internal/api"
	"blkd/metadata/metapb"
)

func later(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(noon.Add(d)) }

// exampleCertificate is that of a failover from n1, which was down, to n2.
func exampleCertificate() *metapb.Certificate {
	return &metapb.Certificate{
		Volume: "pgdata", VolumeId: 1, Kind: metapb.PromotionKind_PROMOTION_KIND_FAILOVER,
		Before: &metapb.RecordNumber{Lineage: 0xabc, Generation: 17, Number: 40}, After: &metapb.RecordNumber{Lineage: 0xabc, Generation: 18, Number: 41},
		OldPrimary: "n1", NewPrimary: "n2", NewIncarnation: 0x1e, Acks: 2, Needed: 2,
		Members: []*metapb.CertifiedMember{
			{Node: "n1", Incarnation: 0x1d, Silent: "down since 11:59:59"},
			{Node: "n2", Incarnation: 0x1e, Sealed: true, End: &metapb.LogEnd{Generation: 17, Seq: 90213}, DurableSeq: 90100, CommitSeq: 90210, Time: later(time.Millisecond)},
			{Node: "n3", Incarnation: 0x1f, Sealed: true, End: &metapb.LogEnd{Generation: 17, Seq: 90215}, DurableSeq: 90100, CommitSeq: 90211, Time: later(590 * time.Millisecond)},
		},
		Committed: &metapb.LogEnd{Generation: 17, Seq: 90211}, Chosen: "n3", ChosenEnd: &metapb.LogEnd{Generation: 17, Seq: 90215},
		Cut:   []*metapb.Tail{{Node: "n2", Generation: 16, FirstSeq: 90216, LastSeq: 90217}},
		Lease: metapb.LeaseEnd_LEASE_END_EXPIRED, LeaseEnded: later(580 * time.Millisecond),
		Asked: later(0), Sealed: later(590 * time.Millisecond), Serving: later(640 * time.Millisecond),
	}
}

func exampleFailover() *api.Promotion {
	return &api.Promotion{
		Volume: exampleServed(), Kind: metapb.PromotionKind_PROMOTION_KIND_FAILOVER, From: "n1", To: "n2",
		Reasons: []string{"n1 does not answer: down since 11:59:59", "n2 is UpToDate and was the first of the best"},
		Took:    durationpb.New(640 * time.Millisecond), Certificate: exampleCertificate(),
	}
}

func exampleHandover() *api.Promotion {
	p := exampleFailover()
	p.Kind, p.Reasons, p.Took = metapb.PromotionKind_PROMOTION_KIND_HANDOVER, []string{"n1 answers, and drains first"}, durationpb.New(12*time.Millisecond)
	c := p.Certificate
	c.Kind, c.Cut, c.Lease, c.LeaseEnded = metapb.PromotionKind_PROMOTION_KIND_HANDOVER, nil, metapb.LeaseEnd_LEASE_END_RELEASED, later(-time.Millisecond)
	return p
}

func exampleForced() *api.Promotion {
	p := exampleFailover()
	p.Kind, p.To, p.Losses = metapb.PromotionKind_PROMOTION_KIND_FORCED, "n3", []string{"writes that only n1 and n2 hold: unknown how many"}
	c := p.Certificate
	c.Kind, c.After.Lineage, c.KeptBranch, c.NewPrimary = metapb.PromotionKind_PROMOTION_KIND_FORCED, 0xdef, "pgdata.branch-17", "n3"
	c.Members[1].Sealed, c.Members[1].Silent = false, "burnt down"
	c.Committed, c.Lease, c.LeaseEnded, c.Cut = nil, metapb.LeaseEnd_LEASE_END_NONE, nil, nil
	return p
}

func examplePreview() *api.Promotion {
	return &api.Promotion{
		Volume: exampleServed(), Kind: metapb.PromotionKind_PROMOTION_KIND_HANDOVER, DryRun: true, From: "n1", To: "n2", Took: durationpb.New(40 * time.Millisecond),
		Reasons: []string{"n1 answers, and would drain first"},
		Candidates: []*api.PromotionCandidate{
			{Node: "n2", Eligible: true, End: &metapb.LogEnd{Generation: 17, Seq: 90215}, DurableSeq: 90100, CommitSeq: 90211, Why: "most complete log"},
			{Node: "n3", Why: "Syncing: it does not count"},
		},
	}
}

// exampleRefused is a preview of what would be refused.
func exampleRefused() *api.Promotion {
	p := examplePreview()
	p.To, p.Kind, p.Took, p.Reasons = "", metapb.PromotionKind_PROMOTION_KIND_UNSPECIFIED, nil, []string{"n1 does not answer, and no other replica has everything"}
	p.Losses, p.Candidates = []string{"with --force: what n1 alone holds"}, p.Candidates[1:]
	return p
}

func TestPromotionOutput(t *testing.T) {
	for name, p := range map[string]*api.Promotion{"handover": exampleHandover(), "failover": exampleFailover(), "forced": exampleForced(),
		"preview": examplePreview(), "refused": exampleRefused(), "none": {Volume: exampleServed(), Kind: metapb.PromotionKind_PROMOTION_KIND_NONE, From: "n1", To: "n1"}} {
		var text, json bytes.Buffer
		r := promotionResult("pgdata", newPromotion(p))
		if err := show(&text, formatTable, r); err != nil {
			t.Fatal(err)
		}
		golden(t, "promote_"+name+".txt", text.Bytes())
		if name != "failover" && name != "preview" {
			continue
		}
		if err := show(&json, formatJSON, r); err != nil {
			t.Fatal(err)
		}
		golden(t, "promote_"+name+".json", json.Bytes())
	}
}

func TestComparedOutput(t *testing.T) {
	same := &api.VerifyReplicasProgress{Done: true, CheckedBytes: 1 << 30, Nodes: []string{"n1", "n2"}}
	different := &api.VerifyReplicasProgress{Done: true, CheckedBytes: 1 << 30, Nodes: []string{"n1", "n2"}, DifferentBytes: 12288,
		Differences: []*api.Difference{{Node: "n2", Offset: 8192, Length: 8192}, {Node: "n2", Offset: 65536, Length: 4096, Unreadable: true}}}
	repaired := &api.VerifyReplicasProgress{Done: true, CheckedBytes: 1 << 30, Nodes: []string{"n1", "n2"}, DifferentBytes: 12288, RepairedBytes: 12288,
		Differences: different.Differences}
	for name, tc := range map[string]struct {
		answer *api.VerifyReplicasProgress
		code   Code
	}{"same": {same, OK}, "different": {different, Failed}, "repaired": {repaired, OK}} {
		for format, end := range map[string]string{formatTable: ".txt", formatJSON: ".json"} {
			var out bytes.Buffer
			a := &app{Streams: Streams{Out: &out}, output: format}
			err := a.showCompared(newCompared("pgdata", tc.answer))
			if code := OK; err != nil {
				if code = err.(*Error).Code; code != tc.code {
					t.Errorf("%s: %v", name, err)
				}
			} else if tc.code != OK {
				t.Errorf("%s: no error", name)
			}
			golden(t, "compared_"+name+end, out.Bytes())
		}
	}
}

func TestGoldenBranches(t *testing.T) {
	list := BranchList{Silent: []string{"n3"}, Branches: newBranches([]*api.Branch{
		{Name: "pgdata@17-n1", Volume: "pgdata", VolumeId: 7, Node: "n1", Generation: 17, End: &metapb.LogEnd{Generation: 17, Seq: 4711},
			SizeBytes: 200 << 30, AllocatedBytes: 12 << 30, Uris: []string{"nbd://10.0.0.1:10809/pgdata@17-n1"}},
		{Name: "pgdata@9-n2", Volume: "pgdata", VolumeId: 7, Node: "n2", Generation: 9,
			Problems: []*api.Problem{{Code: "branch_failed", Text: "superblock: bad magic", Advice: "blkctl branch drop pgdata@9-n2"}}},
	})}
	for format, end := range map[string]string{formatTable: "txt", formatJSON: "json"} {
		var out bytes.Buffer
		if err := show(&out, format, result{data: list, table: func(w io.Writer, _ bool) { branchTable(w, list) }}); err != nil {
			t.Fatal(err)
		}
		golden(t, "branches."+end, out.Bytes())
	}
}
