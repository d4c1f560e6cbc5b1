import Dispatch
import Glibc
import Synchronization

@testable import CurlMulti

/// Whose thread makes the transfers. Both ways must do the same.
enum Threading: CaseIterable {
    case own, hosted

    func engine(_ configuration: CurlEngineConfiguration = .init()) throws -> TestEngine {
        try TestEngine(configuration, self)
    }
}

/// An engine with a thread of its own, or one whose loop a thread of the test hosts.
final class TestEngine: Sendable {
    private let engine: CurlEngine
    private let host: HostThread?

    init(_ configuration: CurlEngineConfiguration, _ threading: Threading) throws {
        var configuration = configuration
        configuration.loops = threading == .own ? 1 : 0
        engine = try CurlEngine(configuration)
        host = threading == .own ? nil : try HostThread(engine)
    }

    var statistics: CurlEngineStatistics { engine.statistics }

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
        guard let host else { return (engine.start(request, receiver: recorder, on: recorder), recorder) }
        return (host.call { $0.start(request, receiver: recorder) }, recorder)
    }

    deinit { host?.end() }

    /// Transfers started later end as cancelled.
    func shutdown() {
        host?.call { $0.close() }
        engine.shutdown()
    }
}

/// A thread with an event loop of its own: it waits for its jobs, and for what the hosted loop's descriptor says.
private final class HostThread: Sendable {
    typealias Job = @Sendable (HostedLoop) -> Void
    private let jobs = Mutex<[Job]>([])
    private let isOver = Atomic<Bool>(false)
    private let wakeUp: EventCounter

    init(_ engine: CurlEngine) throws {
        wakeUp = try EventCounter()
        DispatchQueue(label: "host").async { [self] in
            do {
                let loop = try engine.makeHostedLoop { [self] in post { $0.turn() } }
                try run(loop)
            } catch {
                fatalError("\(error)")
            }
        }
    }

    private func run(_ loop: HostedLoop) throws {
        let descriptor = try loop.makeDescriptor()
        loop.turn()
        while !isOver.load(ordering: .acquiring) {
            let now = jobs.withLock { jobs in
                defer { jobs = [] }
                return jobs
            }
            for job in now { job(loop) }
            var waited = [descriptor, wakeUp.descriptor].map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            poll(&waited, 2, -1)
            var count: UInt64 = 0
            if waited[1].revents != 0 { _ = read(wakeUp.descriptor, &count, 8) }
            if waited[0].revents != 0, read(descriptor, &count, 8) == 8 { loop.turn(counted: count) }
        }
        loop.close()
        close(descriptor)
    }

    func post(_ job: @escaping Job) {
        jobs.withLock { $0.append(job) }
        wakeUp.add(1)
    }

    /// Returns when the job is done.
    func call<R: Sendable>(_ job: @escaping @Sendable (HostedLoop) -> R) -> R {
        let done = DispatchSemaphore(value: 0)
        let result = Mutex<R?>(nil)
        post { loop in
            let value = job(loop)
            result.withLock { $0 = value }
            done.signal()
        }
        done.wait()
        return result.withLock { $0! }
    }

    func end() {
        isOver.store(true, ordering: .releasing)
        wakeUp.add(1)
    }
}
