import NIOCore
import NIOPosix
import Testing

@testable import GatewayServer

/// What an actor makes ready runs in its event loop's next turn, or where its caller asks for it at once.
@Suite(.timeLimit(.minutes(1)))
struct EventLoopExecutorTests {
    private actor Worker: EventLoopActor {
        let executor: EventLoopExecutor
        private var events: [String] = []
        private var waiting: UnsafeContinuation<Void, Never>?

        nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }

        init(_ eventLoop: any EventLoop) { executor = EventLoopExecutor(eventLoop) }

        func note(_ event: String) { events.append(event) }

        /// What happened, in its order.
        var all: [String] { events }

        func start(_ work: @escaping @Sendable (isolated Worker) async -> Void) {
            Task(executorPreference: executor) { await work(self) }
        }

        func wait() async { await withUnsafeContinuation { waiting = $0 } }

        func goOn() {
            waiting?.resume()
            waiting = nil
        }
    }

    /// Runs `body` on the event loop, and waits for all that it has left there.
    private func events(_ body: @escaping @Sendable (isolated Worker) -> Void) async throws -> [String] {
        let eventLoop = MultiThreadedEventLoopGroup.singleton.next()
        let worker = Worker(eventLoop)
        try await eventLoop.submit { worker.onEventLoop(body) }.get()
        return try await eventLoop.submit { worker.onEventLoop { $0.all } }.get()
    }

    @Test func aTaskStartsInTheNextTurn() async throws {
        let events = try await events { worker in
            worker.start { $0.note("task") }
            worker.note("caller")
        }
        #expect(events == ["caller", "task"])
    }

    @Test func aTaskThatIsRunHereIsUnderWayWhenItsCallerGoesOn() async throws {
        let events = try await events { worker in
            worker.executor.runHere {
                worker.start { worker in
                    worker.note("task")
                    await worker.wait()
                    worker.note("resumed")
                }
            }
            worker.note("caller")
            worker.goOn()
        }
        #expect(events == ["task", "caller", "resumed"])
    }

    @Test func aContinuationThatIsRunHereGoesOnAtOnce() async throws {
        let events = try await events { worker in
            worker.executor.runHere {
                worker.start { worker in
                    await worker.wait()
                    worker.note("resumed")
                }
            }
            worker.note("suspended")
            worker.executor.runHere { worker.goOn() }
            worker.note("caller")
        }
        #expect(events == ["suspended", "resumed", "caller"])
    }

    /// Else what a task makes ready would run inside it.
    @Test func onlyTheFirstIsRunHere() async throws {
        let events = try await events { worker in
            worker.executor.runHere {
                worker.start { worker in
                    worker.start { $0.note("inner") }
                    worker.note("outer")
                }
            }
            worker.note("caller")
        }
        #expect(events == ["outer", "caller", "inner"])
    }

    @Test func whatComesAfterwardsWaitsForTheNextTurn() async throws {
        let events = try await events { worker in
            worker.executor.runHere {}
            worker.start { $0.note("task") }
            worker.note("caller")
        }
        #expect(events == ["caller", "task"])
    }
}
