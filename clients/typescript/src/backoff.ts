// Waits: between attempts exponential, with full jitter (R45).

const FIRST_MS = 200;
const LONGEST_MS = 30_000;

export class Backoff {
  private window = FIRST_MS;

  next(): number {
    const wait = Math.random() * this.window;
    this.window = Math.min(2 * this.window, LONGEST_MS);
    return wait;
  }

  /** Only after something has moved, not after a mere connection. */
  progress(): void {
    this.window = FIRST_MS;
  }
}

/** Waits; fails as soon as the client is to end. */
export function sleep(ms: number, stop: AbortSignal): Promise<void> {
  return new Promise((done, failed) => {
    if (stop.aborted) return failed(stop.reason);
    const end = () => {
      clearTimeout(timer);
      failed(stop.reason);
    };
    const timer = setTimeout(() => {
      stop.removeEventListener("abort", end);
      done();
    }, ms);
    stop.addEventListener("abort", end, { once: true });
  });
}
