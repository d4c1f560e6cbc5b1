import CCurl
import Glibc

/// A thread that runs one ``CurlLoop`` until shutdown.
final class LoopThread: Sendable {
    let mailbox: Mailbox
    private let thread: pthread_t

    private final class Start {
        let mailbox: Mailbox
        let configuration: CurlEngineConfiguration
        let descriptors: LoopDescriptors
        let wakeUp: EventCounter
        init(
            mailbox: Mailbox, configuration: CurlEngineConfiguration, descriptors: LoopDescriptors, wakeUp: EventCounter
        ) {
            self.mailbox = mailbox
            self.configuration = configuration
            self.descriptors = descriptors
            self.wakeUp = wakeUp
        }
    }

    init(_ configuration: CurlEngineConfiguration) throws(CurlEngineError) {
        let wakeUp = try EventCounter()
        mailbox = Mailbox { wakeUp.add(1) }
        let start = Start(
            mailbox: mailbox, configuration: configuration, descriptors: try LoopDescriptors(), wakeUp: wakeUp)
        var thread = pthread_t()
        let result = pthread_create(
            &thread, nil,
            { argument in
                let start = Unmanaged<Start>.fromOpaque(argument!).takeRetainedValue()
                ccurl_name_thread("curl-loop")
                CurlLoop(
                    mailbox: start.mailbox, configuration: start.configuration, descriptors: start.descriptors,
                    wakeUp: start.wakeUp
                ).run()
                return nil
            }, Unmanaged.passRetained(start).toOpaque())
        guard result == 0 else { throw CurlEngineError(detail: "no thread left for a transfer loop") }
        self.thread = thread
    }

    func join() { pthread_join(thread, nil) }
}
