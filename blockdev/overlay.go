package blockdev

// overlay is the index of committed blocks that are in the log and not yet in
// the image. Reads look here first.
//
// Entries enter active. Destaging freezes it: active becomes frozen, and is
// emptied block by block as the blocks are poured. Guarded by Store.mu.
type overlay struct {
	active, frozen map[int64]loc
	count          []uint32 // entries per map page, both maps: most regions have none; see page
}

// loc is where a committed block lies.
type loc struct {
	pos uint64 // of the block in the log; 0: the block reads as zeros
	crc uint32 // of the block; for zeros 1 if its space is to be given back
}

func newOverlay(pages int64) overlay {
	return overlay{active: map[int64]loc{}, count: make([]uint32, pages)}
}

// page is where a block is counted: one that is aside, with the first ones.
func (o *overlay) page(block int64) int64 {
	if block == AsideOff/BlockSize {
		return 0
	}
	return block / pageBlocks
}

func (o *overlay) put(block int64, l loc) {
	before := len(o.active)
	o.active[block] = l
	o.count[o.page(block)] += uint32(len(o.active) - before)
}

// get finds the newest entry of a block.
func (o *overlay) get(block int64) (loc, bool) {
	if o.count[o.page(block)] == 0 {
		return loc{}, false
	}
	if l, ok := o.active[block]; ok {
		return l, true
	}
	l, ok := o.frozen[block]
	return l, ok
}

// touches tells whether a block of a chunk is in it.
func (o *overlay) touches(chunk int64) bool {
	if o.count[chunk/pageChunks] == 0 {
		return false
	}
	for b := chunk * chunkBlocks; b < (chunk+1)*chunkBlocks; b++ {
		if _, ok := o.get(b); ok {
			return true
		}
	}
	return false
}

// drop forgets the blocks [first, last): something newer stands in the map.
func (o *overlay) drop(first, last int64) {
	for region := first / pageBlocks; region*pageBlocks < last; region++ {
		if o.count[region] == 0 {
			continue
		}
		for b := max(first, region*pageBlocks); b < min(last, (region+1)*pageBlocks); b++ {
			if _, ok := o.active[b]; ok {
				delete(o.active, b)
				o.count[region]--
			}
			o.poured(b)
		}
	}
}

// freeze starts a round of destaging; the one before is finished.
func (o *overlay) freeze() {
	o.frozen, o.active = o.active, make(map[int64]loc, len(o.active))
}

// poured removes a block of the frozen map.
func (o *overlay) poured(block int64) {
	if _, ok := o.frozen[block]; ok {
		delete(o.frozen, block)
		o.count[o.page(block)]--
	}
}

func (o *overlay) len() int { return len(o.active) + len(o.frozen) }

func (o *overlay) resize(pages int64) {
	for int64(len(o.count)) < pages {
		o.count = append(o.count, 0)
	}
}
