// Commits that are applied once, however often they must be sent (R52 to R62).

import type { MessageInitShape } from "@bufbuild/protobuf";
import { type Client, Code, ConnectError } from "@connectrpc/connect";
import type {
  CommitResponse, ImportRequestSchema, MutationSchema, WriteService,
} from "../gen/deltasync/v1/write_service_pb.js";
import { repeat } from "./refusal.js";

const TIMEOUT_MS = 10_000;
const IMPORT_TIMEOUT_MS = 3_600_000; // its stream decides how long it takes

type Mutations = MessageInitShape<typeof MutationSchema>[];

/** All of the mutations or none. One key for all attempts: a retry changes nothing (R58). */
export async function commit(
  client: Client<typeof WriteService>, mutations: Mutations, stop: AbortSignal,
): Promise<CommitResponse> {
  const request = { mutations, idempotencyKey: crypto.randomUUID() };
  return repeat(() => client.commit(request, { timeoutMs: TIMEOUT_MS, signal: stop }), stop);
}

/** A bulk load in bounded commits, on one stream. */
export class Import {
  /** Commits that are durable, as far as is known. */
  durable = 0;

  constructor(
    private readonly client: Client<typeof WriteService>,
    private readonly id: string,
    private readonly commits: Mutations[],
    private readonly stop: AbortSignal,
  ) {}

  /**
   * Until all commits are durable (R61, R62). What breaks off goes on behind what is. After a `Refusal`
   * an import of the same id goes on from there.
   */
  async run(): Promise<void> {
    let again = false;
    try {
      await repeat(async () => {
        if (again) this.durable = await this.progress();
        again = true;
        if (this.durable === this.commits.length) return;
        const options = { timeoutMs: IMPORT_TIMEOUT_MS, signal: this.stop };
        const { sequence } = await this.client.import(this.numbered(), options);
        this.durable = Number(sequence);
      }, this.stop);
    } catch (error) {
      this.durable = await repeat(() => this.progress(), this.stop);
      throw error;
    }
  }

  private async *numbered(): AsyncIterable<MessageInitShape<typeof ImportRequestSchema>> {
    for (let at = this.durable; at < this.commits.length; at += 1) {
      yield { importId: this.id, sequence: BigInt(at + 1), mutations: this.commits[at] ?? [] };
    }
  }

  private async progress(): Promise<number> {
    try {
      const options = { timeoutMs: TIMEOUT_MS, signal: this.stop };
      return Number((await this.client.getImport({ importId: this.id }, options)).sequence);
    } catch (error) {
      if (ConnectError.from(error).code === Code.NotFound) return 0; // nothing of it was applied
      throw error;
    }
  }
}
