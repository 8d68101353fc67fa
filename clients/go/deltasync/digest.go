package deltasync

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/bits"
)

// Digest is a sum of item digests modulo 2^128 (R47).
type Digest struct{ hi, lo uint64 }

// Add is the digest of both.
func (d Digest) Add(other Digest) Digest {
	lo, carry := bits.Add64(d.lo, other.lo, 0)
	hi, _ := bits.Add64(d.hi, other.hi, carry)
	return Digest{hi, lo}
}

// Sub is the digest without the other.
func (d Digest) Sub(other Digest) Digest {
	lo, borrow := bits.Sub64(d.lo, other.lo, 0)
	hi, _ := bits.Sub64(d.hi, other.hi, borrow)
	return Digest{hi, lo}
}

// Bytes are the digest as it travels.
func (d Digest) Bytes() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, d.hi), d.lo)
}

func (d Digest) String() string { return hex.EncodeToString(d.Bytes()) }

// ItemDigest is the digest of one item.
func ItemDigest(key []byte, version uint64, sortKey, value []byte) Digest {
	hash := sha256.New()
	number := binary.BigEndian.AppendUint64(nil, version)
	for _, field := range [][]byte{key, number, sortKey, value} {
		hash.Write(binary.BigEndian.AppendUint32(nil, uint32(len(field))))
		hash.Write(field)
	}
	return first16(hash.Sum(nil))
}

// Segment is the part of a collection that a key belongs to, 0..4095.
func Segment(key []byte) uint16 {
	hash := sha256.Sum256(key)
	return binary.BigEndian.Uint16(hash[:2]) >> 4
}

// ValueHash is what reconciliation compares values by (R71).
func ValueHash(value []byte) []byte {
	hash := sha256.Sum256(value)
	return hash[:16]
}

func first16(hash []byte) Digest {
	return Digest{binary.BigEndian.Uint64(hash[:8]), binary.BigEndian.Uint64(hash[8:16])}
}
