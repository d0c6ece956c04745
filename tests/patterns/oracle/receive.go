package main

import (
	"context"
	"encoding/binary"
	"io"
	"os"

	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
)

// receive syncs the files of the sender on stdin and stdout into a directory, as BuildKit does. A packet is
// preceded by its length in four bytes.
func receive(directory string) error {
	return fsutil.Receive(context.Background(), stdio{}, directory, fsutil.ReceiveOpt{
		Filter: func(_ string, stat *types.Stat) bool {
			// Only root may give files away.
			stat.Uid = uint32(os.Getuid())
			stat.Gid = uint32(os.Getgid())
			return true
		},
	})
}

type stdio struct{}

func (stdio) Context() context.Context {
	return context.Background()
}

func (stdio) SendMsg(m any) error {
	packet, err := m.(*types.Packet).Marshal()
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(packet))), packet...))
	return err
}

func (stdio) RecvMsg(m any) error {
	var length [4]byte
	if _, err := io.ReadFull(os.Stdin, length[:]); err != nil {
		return err
	}
	packet := make([]byte, binary.BigEndian.Uint32(length[:]))
	if _, err := io.ReadFull(os.Stdin, packet); err != nil {
		return err
	}
	return m.(*types.Packet).Unmarshal(packet)
}
