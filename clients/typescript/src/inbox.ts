// Everything that a subject follows: its inbox says what moved, pulls fetch it (R82 to R89).

import { create, fromBinary } from "@bufbuild/protobuf";
import type { Notice } from "../gen/deltasync/v1/sync_service_pb.js";
import { type InboxEntry, InboxEntrySchema, InboxState } from "../gen/deltasync/v1/types_pb.js";
import { Copy } from "./copy.js";
import type { Puller } from "./puller.js";

/**
 * Copies of a subject's inbox and of all that is in it. It streams the inbox alone and pulls what it
 * tells of (R126). What is to be caught up is worked off before anything else is heard; a client with
 * a disk keeps that queue there (R120).
 */
export class Account {
  readonly inbox: Copy;
  private readonly copies = new Map<string, Copy>();
  /** What was told of collections that do not write to inboxes. */
  private readonly polled = new Map<string, InboxEntry>();

  constructor(
    subject: string,
    private readonly puller: Puller,
    private readonly onArrival: (copy: Copy) => void,
  ) {
    this.inbox = new Copy(`inbox/${subject}`, onArrival);
  }

  /** The inbox, and then what it and the polled heads tell of. */
  async pull(): Promise<void> {
    await this.puller.pull([this.inbox], ({ collection, entry }) => {
      if (entry !== undefined) this.polled.set(collection, entry);
    });
    await this.catchUp();
  }

  /** A collection moved that the inbox does not announce. */
  async onNotice({ collection, head }: Notice): Promise<void> {
    const state = head === undefined ? InboxState.DELETED : InboxState.EXISTS;
    const place = { epoch: head?.epoch ?? 0n, version: head?.version ?? 0n };
    this.polled.set(collection, create(InboxEntrySchema, { state, ...place }));
    await this.catchUp();
  }

  /** Pulls what differs from what was told, drops what is followed no more. */
  async catchUp(): Promise<void> {
    const told = new Map<string, InboxEntry>();
    for (const { key, value } of this.inbox.rows.items.values()) {
      told.set(new TextDecoder().decode(key), fromBinary(InboxEntrySchema, value));
    }
    for (const [name, copy] of this.copies) {
      if (told.has(name)) continue;
      this.copies.delete(name);
      copy.vanish();
    }
    const behind: Copy[] = [];
    for (const [name, entry] of told) {
      const copy = this.copies.get(name) ?? new Copy(name, this.onArrival);
      this.copies.set(name, copy);
      const polled = this.polled.get(name);
      if (!covers(copy, entry) || (polled !== undefined && !covers(copy, polled))) {
        behind.push(copy);
      }
    }
    this.polled.clear();
    await this.puller.pull(behind);
  }
}

/** Whether the copy has what the entry tells of (R121). */
function covers(copy: Copy, { state, epoch, version }: InboxEntry): boolean {
  const { cursor, shown } = copy;
  if (state === InboxState.EXISTS) {
    return copy.isLive && cursor?.epoch === epoch && cursor.version >= version;
  }
  return cursor === undefined && shown?.epoch === 0n;
}
