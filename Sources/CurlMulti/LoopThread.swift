import CCurl
import Glibc

/// A thread that runs one ``CurlLoop`` until shutdown.
final class LoopThread: Sendable {
    let mailbox: Mailbox
    private let thread: pthread_t

    private final class Start {
        let mailbox: Mailbox
        let configuration: CurlEngineConfiguration
        let epoll: Int32
        init(mailbox: Mailbox, configuration: CurlEngineConfiguration, epoll: Int32) {
            self.mailbox = mailbox
            self.configuration = configuration
            self.epoll = epoll
        }
    }

    init(_ configuration: CurlEngineConfiguration) throws(CurlEngineError) {
        mailbox = try Mailbox()
        let epoll = epoll_create1(Int32(EPOLL_CLOEXEC))
        guard epoll >= 0 else { throw CurlEngineError(detail: "no descriptor left for a transfer loop") }
        let start = Start(mailbox: mailbox, configuration: configuration, epoll: epoll)
        var thread = pthread_t()
        let result = pthread_create(
            &thread, nil,
            { argument in
                let start = Unmanaged<Start>.fromOpaque(argument!).takeRetainedValue()
                ccurl_name_thread("curl-loop")
                CurlLoop(mailbox: start.mailbox, configuration: start.configuration, epoll: start.epoll).run()
                return nil
            }, Unmanaged.passRetained(start).toOpaque())
        guard result == 0 else { throw CurlEngineError(detail: "no thread left for a transfer loop") }
        self.thread = thread
    }

    func join() { pthread_join(thread, nil) }
}
