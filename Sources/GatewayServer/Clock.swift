import GatewayCore
import GatewayWire
import Glibc

extension MonotonicTime {
    package static var now: MonotonicTime { MonotonicTime(nanoseconds: read(CLOCK_MONOTONIC)) }
}

extension Timestamp {
    static var now: Timestamp { Timestamp(microseconds: read(CLOCK_REALTIME) / 1000) }
}

private func read(_ clock: clockid_t) -> Int64 {
    var time = timespec()
    clock_gettime(clock, &time)
    return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
}
