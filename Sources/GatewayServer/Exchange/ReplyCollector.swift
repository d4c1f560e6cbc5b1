import CurlMulti
import NIOCore

/// Gathers the small reply to a request of the gateway's own, such as a probe, and hands it over whole.
final class ReplyCollector: TransferReceiver {
    struct Collected {
        /// Zero where no head came.
        var status = 0
        /// As it came, where the reply has one.
        var retryAfter: String?
        /// Cut off where the reply was longer than was asked for.
        var body: [UInt8] = []
        var failure: TransferFailure?
    }

    private final class State {
        var transfer: Transfer?
        var collected = Collected()
        let maxBody: Int
        let done: (Collected) -> Void

        init(maxBody: Int, _ done: @escaping (Collected) -> Void) {
            self.maxBody = maxBody
            self.done = done
        }
    }

    private let state: NIOLoopBound<State>

    private init(_ state: State, _ loop: LoopContext) { self.state = NIOLoopBound(state, eventLoop: loop.eventLoop) }

    /// Sends a request. Called on the event loop, as `done` is, once, in any case.
    /// - Parameter maxBody: in bytes; what goes beyond is dropped.
    @discardableResult
    static func send(
        _ request: TransferRequest, by engine: CurlEngine, on loop: LoopContext, maxBody: Int,
        _ done: @escaping (Collected) -> Void
    ) -> Transfer {
        let state = State(maxBody: maxBody, done)
        let transfer = engine.start(request, receiver: ReplyCollector(state, loop), on: loop.delivery)
        state.transfer = transfer
        return transfer
    }

    func receive(_ update: TransferUpdate) {
        let state = state.value
        if let head = update.head {
            state.collected.status = head.status
            state.collected.retryAfter = head.retryAfter
        }
        state.collected.body.append(contentsOf: update.body.prefix(state.maxBody - state.collected.body.count))
        // A transfer that is not told so pauses after a window.
        state.transfer?.acknowledge(update.body.count)
        guard let end = update.end else { return }
        state.collected.failure = end.failure
        state.done(state.collected)
    }
}
