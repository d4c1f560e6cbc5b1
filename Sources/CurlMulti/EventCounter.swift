import CCurl
import Glibc

/// An eventfd: a counter in the kernel that can be waited for.
final class EventCounter: Sendable {
    let descriptor: Int32

    init() throws(CurlEngineError) {
        descriptor = eventfd(0, Int32(EFD_NONBLOCK | EFD_CLOEXEC))
        guard descriptor >= 0 else { throw CurlEngineError(detail: "no descriptor left for a transfer loop") }
    }

    deinit { close(descriptor) }

    func add(_ count: UInt64) {
        var count = count
        _ = write(descriptor, &count, 8)
    }
}
