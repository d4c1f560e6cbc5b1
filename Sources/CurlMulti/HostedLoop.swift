import CCurl
import Glibc
import Synchronization

/// A ``CurlLoop`` on a thread that has an event loop of its own, in between what that does: no change of thread lies
/// between a transfer and who receives it. All of it is for that thread alone.
///
/// Such a thread waits for descriptors of its own, and those of libcurl cannot be among them. The kernel watches them in
/// its place: an asynchronous poll of the loop's epoll (IOCB_CMD_POLL of io_submit(2), since Linux 4.19) counts in an
/// eventfd when there is something to do, and the host watches that.
package final class HostedLoop {
    private let mailbox: Mailbox
    private let loop: CurlLoop
    private let descriptors: LoopDescriptors
    private let counter: EventCounter
    private let polls: AsynchronousPolls
    private let wake: @Sendable () -> Void
    /// A poll is under way, or has ended and was not counted yet.
    private var isPolling = false
    private var isClosed = false
    private var lastID: UInt64 = 0

    /// Counted for a turn that must follow in any case; far above what polls add up to.
    private static let turnAgain: UInt64 = 1 << 32

    init(
        mailbox: Mailbox, configuration: CurlEngineConfiguration, wake: @escaping @Sendable () -> Void
    ) throws(CurlEngineError) {
        self.mailbox = mailbox
        self.wake = wake
        polls = try AsynchronousPolls()
        counter = try EventCounter()
        descriptors = try LoopDescriptors()
        loop = CurlLoop(mailbox: mailbox, configuration: configuration, descriptors: descriptors)
    }

    deinit {
        // Something to read in the epoll ends the poll that is under way.
        counter.add(1)
        _ = ccurl_epoll_control(descriptors.epoll, EPOLL_CTL_ADD, counter.descriptor, EPOLLIN.rawValue)
    }

    /// Whether this kernel watches for so many hosted loops: some sandboxes do not, and `fs.aio-max-nr` is a limit for all
    /// processes. What it grants is kept for the loops.
    package static func isOffered(for loops: Int) -> Bool {
        guard let counter = try? EventCounter() else { return false }
        counter.add(1)
        let polls = (0..<loops).map { _ in try? AsynchronousPolls() }
        return polls.allSatisfy { $0?.start(on: counter.descriptor, counter) ?? false }
    }

    /// Readable when ``turn(counted:)`` must be called, with the number to call it with: eight bytes in the machine's
    /// order. The caller closes it.
    package func makeDescriptor() throws(CurlEngineError) -> Int32 {
        let descriptor = fcntl(counter.descriptor, F_DUPFD_CLOEXEC, 0)
        guard descriptor >= 0 else { throw CurlEngineError(detail: "no descriptor left for a transfer loop") }
        return descriptor
    }

    /// As ``CurlEngine/start(_:receiver:on:)``; the receiver is called on this thread, within a turn.
    package func start(_ request: TransferRequest, receiver: any TransferReceiver) -> Transfer {
        lastID += 1
        mailbox.post(.start(lastID, request, receiver, DirectDelivery.shared))
        return Transfer(id: lastID, mailbox: mailbox)
    }

    package func turn(counted count: UInt64) {
        if count % Self.turnAgain > 0 { isPolling = false }
        turn()
    }

    package func turn() {
        guard !isClosed else { return }
        loop.turn(waits: false)
        if loop.hasWork {
            // By way of the kernel, so that the host looks at its own descriptors first.
            counter.add(Self.turnAgain)
        } else if !mailbox.fallAsleep() {
            wake()
        }
        if !isPolling {
            isPolling = polls.start(on: descriptors.epoll, counter)
            if !isPolling { counter.add(Self.turnAgain) }
        }
    }

    /// Cancels every transfer and delivers their ends; transfers started later end as cancelled.
    package func close() {
        guard !isClosed else { return }
        isClosed = true
        loop.finish()
    }
}

/// Polls whose results are of no interest, only that each counts in an eventfd.
private final class AsynchronousPolls {
    /// To be used again: the kernel takes some 30 ms, an RCU grace period, to destroy one.
    private static let unused = Mutex<[ccurl_polls]>([])
    private let context: ccurl_polls

    init() throws(CurlEngineError) {
        var context = Self.unused.withLock { $0.popLast() } ?? 0
        guard context != 0 || ccurl_polls_create(&context) == 0 else {
            throw CurlEngineError(detail: "the kernel offers no asynchronous polls")
        }
        self.context = context
    }

    /// None of them may be under way.
    deinit { Self.unused.withLock { $0.append(context) } }

    /// Adds one to the counter when the descriptor is readable, now or later.
    func start(on descriptor: Int32, _ counter: EventCounter) -> Bool {
        if ccurl_polls_submit(context, descriptor, counter.descriptor) == 1 { return true }
        // There was no room: results of earlier ones have it.
        ccurl_polls_discard_results(context)
        return ccurl_polls_submit(context, descriptor, counter.descriptor) == 1
    }
}

/// For receivers on the loop's own thread.
private final class DirectDelivery: DeliveryQueue {
    static let shared = DirectDelivery()

    func deliver(_ batch: [Delivery]) {
        for delivery in batch { delivery.receiver.receive(delivery.update) }
    }
}
