import Synchronization

/// Keeps the last requests in memory, in a ring.
final class MemoryStore: RequestStore {
    private struct State {
        var ring: [HistoryEntry] = []
        /// Where the next entry goes once the ring is full.
        var next = 0
        var totals = RequestTotals()
    }

    private let capacity: Int
    private let state = Mutex(State())

    /// - Parameter capacity: entries kept; 0 keeps none.
    init(capacity: Int) { self.capacity = capacity }

    func record(_ entry: HistoryEntry) {
        state.withLock { state in
            state.totals.add(entry)
            guard capacity > 0 else { return }
            if state.ring.count < capacity {
                state.ring.append(entry)
            } else {
                state.ring[state.next] = entry
                state.next = (state.next + 1) % capacity
            }
        }
    }

    func history(limit: Int) -> [HistoryEntry] {
        state.withLock { state in
            let count = min(max(0, limit), state.ring.count)
            return (0..<count).map { offset in
                state.ring[(state.next + state.ring.count - count + offset) % state.ring.count]
            }
        }
    }

    func totals() -> (totals: RequestTotals, historyCount: Int) {
        state.withLock { ($0.totals, $0.ring.count) }
    }

    func clear() { state.withLock { $0 = State() } }
}
