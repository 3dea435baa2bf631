/** Bounded concurrency, per key and altogether, so that neither a slow key nor a big one starves the others. */
export interface Lanes {
  /** Runs it when it is its turn. */
  run(key: string, work: () => Promise<void>): Promise<void>;
  /** Keys with a queue that is full: nothing more should come until `onRoom`. */
  full(): string[];
  /** Resolves when fewer than the most are under way or waiting. */
  room(): Promise<void>;
}

/** How much at once: per key, waiting per key before it counts as full, and altogether. */
export interface LaneLimits {
  readonly width: number;
  readonly queue: number;
  readonly most: number;
}

/** `onRoom` is called when a lane that was told to be full has half of its queue free. */
export function createLanes({ width, queue, most }: LaneLimits, onRoom: () => void): Lanes {
  const lanes = new Map<string, { running: number; waiting: (() => void)[]; wasFull: boolean }>();
  const forRoom: (() => void)[] = [];
  let total = 0;
  return {
    async run(key, work) {
      const lane = lanes.get(key) ?? { running: 0, waiting: [], wasFull: false };
      lanes.set(key, lane);
      total += 1;
      if (lane.running >= width) await new Promise<void>((resolve) => lane.waiting.push(resolve));
      else lane.running += 1;
      try {
        await work();
      } finally {
        total -= 1;
        const next = lane.waiting.shift();
        if (next === undefined) lane.running -= 1;
        else next();
        if (lane.running === 0) lanes.delete(key);
        if (total < most) for (const resolve of forRoom.splice(0)) resolve();
        if (lane.wasFull && lane.waiting.length <= queue / 2) {
          lane.wasFull = false;
          onRoom();
        }
      }
    },
    full() {
      return [...lanes]
        .filter(([, lane]) => {
          lane.wasFull = lane.waiting.length >= queue;
          return lane.wasFull;
        })
        .map(([key]) => key);
    },
    async room() {
      if (total >= most) await new Promise<void>((resolve) => forRoom.push(resolve));
    },
  };
}
