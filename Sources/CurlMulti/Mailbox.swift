import CCurl
import Glibc
import Synchronization

/// The only thing that other threads share with a loop.
final class Mailbox: Sendable {
    enum Command: Sendable {
        case start(UInt64, TransferRequest, any TransferReceiver, any DeliveryQueue)
        case cancel(UInt64)
        case acknowledge(UInt64, Int)
        /// A name look-up ended; empty where the name has no address.
        case resolved(host: String, addresses: [String])
        case shutdown
    }

    private struct State {
        var commands: [Command] = []
        var statistics = CurlEngineStatistics()
        var isClosed = false
        /// The loop waits, or is about to, and must be woken.
        var isLoopAsleep = false
    }

    private let state = Mutex(State())
    private let transferCount = Atomic<Int>(0)
    let eventFD: Int32

    init() throws(CurlEngineError) {
        eventFD = eventfd(0, Int32(EFD_NONBLOCK | EFD_CLOEXEC))
        guard eventFD >= 0 else { throw CurlEngineError(detail: "no descriptor left for a transfer loop") }
    }

    deinit { close(eventFD) }

    /// Transfers that were posted and have not ended.
    var transfers: Int { transferCount.load(ordering: .relaxed) }

    /// The loop's word that a transfer is over.
    func noteEnd() { transferCount.subtract(1, ordering: .relaxed) }

    /// Wakes the loop only when it sleeps: awake, it looks here before it sleeps again.
    func post(_ command: Command) {
        if case .start = command { transferCount.add(1, ordering: .relaxed) }
        let (wake, refused) = state.withLock { state in
            guard !state.isClosed else { return (false, true) }
            state.commands.append(command)
            defer { state.isLoopAsleep = false }
            return (state.isLoopAsleep, false)
        }
        if wake {
            var one: UInt64 = 1
            _ = write(eventFD, &one, 8)
        }
        if refused, case .start(_, _, let receiver, let queue) = command {
            queue.deliver([Delivery(receiver: receiver, update: TransferUpdate(end: .endedBeforeStart))])
        }
    }

    /// Swaps the commands out; `spare`'s storage is used for the next ones. Where there are none, the loop may sleep.
    func take(into spare: inout [Command]) {
        spare.removeAll(keepingCapacity: true)
        state.withLock { state in
            swap(&state.commands, &spare)
            state.isLoopAsleep = spare.isEmpty
        }
    }

    func publish(_ statistics: CurlEngineStatistics) { state.withLock { $0.statistics = statistics } }

    /// After this every start is refused with an end of its own. Returns what was still waiting.
    func close() -> [Command] {
        state.withLock { state in
            state.isClosed = true
            defer { state.commands = [] }
            return state.commands
        }
    }

    var statistics: CurlEngineStatistics { state.withLock { $0.statistics } }

    private func close(_ fd: Int32) { _ = Glibc.close(fd) }
}

extension TransferResult {
    /// The end of a transfer that never reached curl.
    static let endedBeforeStart = TransferResult(failure: TransferFailure(reason: .cancelled), connectTime: .zero)
}
