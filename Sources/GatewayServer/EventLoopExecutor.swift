import NIOCore

/// Runs actors and their tasks on one event loop.
///
/// As the actors' serial executor alone (NIO offers that), every resumed continuation would go through the global
/// pool before it comes back to the loop: two thread switches. As the tasks' preferred executor too, it stays here.
final class EventLoopExecutor: SerialExecutor, TaskExecutor {
    private let eventLoop: any EventLoop
    /// Only the event loop's thread looks at it.
    nonisolated(unsafe) private var runsNextHere = false

    init(_ eventLoop: any EventLoop) { self.eventLoop = eventLoop }

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        if eventLoop.inEventLoop, runsNextHere {
            runsNextHere = false
            run(job)
        } else {
            eventLoop.execute { self.run(job) }
        }
    }

    private func run(_ job: UnownedJob) {
        job.runSynchronously(isolatedTo: asUnownedSerialExecutor(), taskExecutor: asUnownedTaskExecutor())
    }

    /// Runs what `body` makes ready of an actor, a task or a continuation, here and now in place of the loop's next turn: for
    /// a caller on the event loop that has nothing left to do.
    func runHere(_ body: () -> Void) {
        eventLoop.preconditionInEventLoop()
        runsNextHere = true
        defer { runsNextHere = false }
        body()
    }

    func checkIsolated() { eventLoop.preconditionInEventLoop() }
}

/// An actor that lives on an event loop, as its connection does.
protocol EventLoopActor: Actor {
    nonisolated var executor: EventLoopExecutor { get }
}

extension EventLoopActor {
    /// Runs `body` here and now; traps anywhere but on the actor's event loop. `assumeIsolated` does the same, but looks for
    /// the executor of a task first: a thousand instructions where there is none, as in a channel's handler, and that twice
    /// for each token.
    @inline(__always)
    nonisolated func onEventLoop<Value>(_ body: (isolated Self) throws -> Value) rethrows -> Value {
        executor.checkIsolated()
        return try withoutActuallyEscaping(body) { isolated in
            try unsafeBitCast(isolated, to: ((Self) throws -> Value).self)(self)
        }
    }
}
