module blkd

go 1.26
