import CCurl
import Synchronization

/// Makes HTTP transfers on its own loop threads. It knows nothing of what they carry and never decides on a retry.
package final class CurlEngine: Sendable {
    private let loops: [LoopThread]
    private let transfersPerLoop: Int
    private let nextID = Atomic<UInt64>(0)

    /// Starts the loop threads.
    package init(_ configuration: CurlEngineConfiguration = .init()) throws(CurlEngineError) {
        guard Self.isGloballyReady else { throw CurlEngineError(detail: "libcurl could not be initialised") }
        var loops: [LoopThread] = []
        for _ in 0..<max(1, configuration.loops) {
            loops.append(try LoopThread(configuration))
        }
        self.loops = loops
        transfersPerLoop = configuration.transfersPerLoop
    }

    /// curl_global_init is not thread safe and must run once; SIGPIPE must be off before any transfer.
    private static let isGloballyReady: Bool = {
        ccurl_ignore_sigpipe()
        return curl_global_init(Int(ccurl_init_all)) == CURLE_OK
    }()

    /// Starts a transfer; never blocks. Events come through `queue` to `receiver`, and exactly one `.end` comes last,
    /// after a cancel and at shutdown too.
    package func start(
        _ request: TransferRequest, receiver: any TransferReceiver, on queue: any DeliveryQueue
    ) -> Transfer {
        let id = nextID.add(1, ordering: .relaxed).newValue
        let mailbox = loopWithRoom().mailbox
        mailbox.post(.start(id, request, receiver, queue))
        return Transfer(id: id, mailbox: mailbox)
    }

    /// The first that has room: few transfers share one loop and its idle connections. Where none has, the one with the
    /// fewest.
    private func loopWithRoom() -> LoopThread {
        loops.first { $0.mailbox.transfers < transfersPerLoop }
            ?? loops.min { $0.mailbox.transfers < $1.mailbox.transfers }!
    }

    /// Cancels every transfer, delivers their ends and joins the threads. Transfers started later end as cancelled.
    package func shutdown() {
        for loop in loops { loop.mailbox.post(.shutdown) }
        for loop in loops { loop.join() }
    }

    package var statistics: CurlEngineStatistics {
        loops.reduce(into: CurlEngineStatistics()) { $0.add($1.mailbox.statistics) }
    }
}

/// A running transfer, from any thread. Both calls do nothing once it has ended.
package struct Transfer: Sendable {
    package let id: UInt64
    let mailbox: Mailbox

    /// Ends the transfer in whatever phase it is; its connection closes, which is how the upstream learns of it.
    package func cancel() { mailbox.post(.cancel(id)) }

    /// Says that the receiver is done with this many body bytes. A transfer with a whole window of bytes outstanding
    /// is paused, so small replies need no acknowledgement at all.
    package func acknowledge(_ bytes: Int) { mailbox.post(.acknowledge(id, bytes)) }
}

package struct CurlEngineConfiguration: Sendable {
    /// Loop threads, 1 or more; one carries about 30 000 requests a second.
    package var loops = 1
    /// Transfers that run on one loop before the next takes part. A thousand that start at once are too much for one, and
    /// a few dozen cost less on one than on two.
    package var transfersPerLoop = 128
    /// Idle connections that each loop keeps for reuse, over all upstreams.
    package var maxIdleConnections = 512
    /// Oldest idle connection that is used again; below the 5 s after which llama.cpp closes.
    package var maxIdleAge: Duration = .seconds(4)
    /// Oldest connection to a named host that is used again, in whole seconds: one that is busy would else never see that
    /// the name has another address.
    package var maxConnectionAge: Duration = .seconds(60)
    /// Body bytes a receiver may hold unacknowledged before its transfer is paused.
    package var window = 256 << 10
    /// Bytes of one reply's heads, 1xx included.
    package var maxHeaderBytes = 64 << 10
    /// How long a looked-up address is used without looking again.
    package var addressLifetime: Duration = .seconds(30)
    package typealias LookUp = @Sendable (_ host: String) -> [String]
    /// Finds the numeric addresses of a named host; called on a thread of its own, which it may block.
    package var lookUp: LookUp = HostTable.lookUp

    package init() {}
}

/// The engine could not be made.
package struct CurlEngineError: Error, CustomStringConvertible {
    var detail: String
    package var description: String { detail }
}

/// Counters since start, and one gauge.
package struct CurlEngineStatistics: Sendable, Equatable {
    package var activeTransfers = 0
    /// A loop that turns far more often than bytes arrive is spinning.
    package var loopTurns: UInt64 = 0
    /// Transfers stopped for a while because their receiver held a whole window.
    package var pauses: UInt64 = 0

    mutating func add(_ other: Self) {
        activeTransfers += other.activeTransfers
        loopTurns += other.loopTurns
        pauses += other.pauses
    }
}
