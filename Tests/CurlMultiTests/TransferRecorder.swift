import CurlMulti
import Synchronization

/// Gathers the events of one transfer, and lets a test wait for them.
final class TransferRecorder: TransferReceiver, DeliveryQueue {
    struct Seen: Sendable {
        var head: ResponseHead?
        var body: [UInt8] = []
        var bodyBytes = 0
        var ends: [TransferResult] = []
    }

    private struct State {
        var seen = Seen()
        var waiters: [(test: @Sendable (Seen) -> Bool, continuation: CheckedContinuation<Void, Never>)] = []
    }

    private let state = Mutex(State())
    private let keepsBody: Bool
    /// Called on the loop thread with the size of each piece.
    private let onBody: (@Sendable (Int) -> Void)?

    init(keepsBody: Bool = true, onBody: (@Sendable (Int) -> Void)? = nil) {
        self.keepsBody = keepsBody
        self.onBody = onBody
    }

    var seen: Seen { state.withLock { $0.seen } }

    func deliver(_ batch: [Delivery]) {
        for delivery in batch { delivery.receiver.receive(delivery.update) }
    }

    func receive(_ update: TransferUpdate) {
        if !update.body.isEmpty { onBody?(update.body.count) }
        let ready = state.withLock { state in
            if let head = update.head { state.seen.head = head }
            state.seen.bodyBytes += update.body.count
            if keepsBody { state.seen.body += update.body }
            if let result = update.end { state.seen.ends.append(result) }
            let seen = state.seen
            let ready = state.waiters.filter { $0.test(seen) }
            state.waiters.removeAll { $0.test(seen) }
            return ready
        }
        for waiter in ready { waiter.continuation.resume() }
    }

    func until(_ test: @escaping @Sendable (Seen) -> Bool) async {
        await withCheckedContinuation { continuation in
            let isReady = state.withLock { state in
                if test(state.seen) { return true }
                state.waiters.append((test, continuation))
                return false
            }
            if isReady { continuation.resume() }
        }
    }

    /// The transfer's one end.
    func end() async -> TransferResult {
        await until { !$0.ends.isEmpty }
        return seen.ends[0]
    }
}

extension CurlEngine {
    func get(
        _ port: Int, host: String = "127.0.0.1", isTLS: Bool = false, timers: TransferTimers = .init()
    ) -> (Transfer, TransferRecorder) {
        run(.example(.get, port, host: host, isTLS: isTLS, timers: timers))
    }

    func post(_ port: Int, _ body: String, timers: TransferTimers = .init()) -> (Transfer, TransferRecorder) {
        run(.example(.post, port, body: body, timers: timers))
    }

    func run(
        _ request: TransferRequest, recorder: TransferRecorder = TransferRecorder()
    ) -> (Transfer, TransferRecorder) {
        (start(request, receiver: recorder, on: recorder), recorder)
    }
}

extension TransferRequest {
    /// A request for `/x`.
    static func example(
        _ method: Method, _ port: Int, host: String = "127.0.0.1", isTLS: Bool = false, body: String? = nil,
        timers: TransferTimers = .init()
    ) -> TransferRequest {
        TransferRequest(
            method: method, target: TransferTarget(isTLS: isTLS, host: host, port: port, path: "/x"),
            headers: HeaderList([("X-Test", "yes")])!,
            body: body.map { text in Array(text.utf8).withUnsafeBytes { RequestBody(copying: $0) } }, timers: timers)
    }
}
