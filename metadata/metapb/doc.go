// Package metapb holds the records of the metadata quorum, generated from
// metadata.proto: commands and their results, the state, and what a node's disk
// knows of the node.
package metapb
