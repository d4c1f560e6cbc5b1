import NIOCore

/// Runs actors and their tasks on one event loop.
///
/// As the actors' serial executor alone (NIO offers that), every resumed continuation would go through the global
/// pool before it comes back to the loop: two thread switches. As the tasks' preferred executor too, it stays here.
final class EventLoopExecutor: SerialExecutor, TaskExecutor {
    private let eventLoop: any EventLoop

    init(_ eventLoop: any EventLoop) { self.eventLoop = eventLoop }

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        eventLoop.execute {
            job.runSynchronously(
                isolatedTo: self.asUnownedSerialExecutor(), taskExecutor: self.asUnownedTaskExecutor())
        }
    }

    func checkIsolated() { eventLoop.preconditionInEventLoop() }
}
