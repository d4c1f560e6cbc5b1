import CCurl

/// A transfer on its loop: curl's handle, the phase its timers need, and what waits to be delivered. Loop thread only.
final class ActiveTransfer {
    enum Phase {
        case resolving
        case connecting
        /// The request is on its way, and no byte of the reply has come.
        case waiting
        case receiving
    }

    let id: UInt64
    let request: TransferRequest
    let receiver: any TransferReceiver
    /// Index of the receiver's outbox in the loop.
    let outbox: Int
    let started: Int64
    let window: Int
    let maxHeaderBytes: Int

    /// Nil while the host's name is looked up.
    var easy: UnsafeMutableRawPointer?
    var pin: HostTable.Pin?

    var phase: Phase
    /// When the present phase began, or the last bytes came.
    var lastProgress: Int64
    var isPaused = false
    var pauses: UInt64 = 0
    private var unacknowledged = 0
    private var sends = 0
    private(set) var abortReason: TransferFailure.Reason?

    private var headerBytes = 0
    private var head = ResponseHead(status: 0)
    private var isHeadDone = false
    /// Ready for the receiver: taken at the end of the turn.
    private(set) var readyHead: ResponseHead?
    private(set) var readyBody: [UInt8] = []
    var isDirty = false
    /// Outlives every transfer of its own.
    private unowned let loop: CurlLoop

    init(
        id: UInt64, request: TransferRequest, receiver: any TransferReceiver, outbox: Int, phase: Phase,
        configuration: CurlEngineConfiguration, loop: CurlLoop
    ) {
        self.id = id
        self.request = request
        self.receiver = receiver
        self.outbox = outbox
        self.phase = phase
        self.loop = loop
        window = configuration.window
        maxHeaderBytes = configuration.maxHeaderBytes
        started = loop.now
        lastProgress = started
    }

    // MARK: What curl's callbacks do

    /// Runs before every send of the request; the second one is curl's hidden replay on a new connection.
    func mayContinueToSend() -> Bool {
        sends += 1
        guard sends == 1 else {
            abortReason = .noReply
            return false
        }
        phase = .waiting
        lastProgress = loop.now
        loop.schedule(self)
        return true
    }

    /// - Returns: whether the transfer may go on.
    func receiveHeader(_ line: UnsafeRawBufferPointer) -> Bool {
        noteBytes()
        headerBytes += line.count
        guard headerBytes <= maxHeaderBytes else {
            abortReason = .headTooLarge
            return false
        }
        guard !isHeadDone else { return true }  // a trailer
        if line.starts(with: "HTTP/".utf8) {
            head = ResponseHead(status: Self.status(of: line))
        } else if line.first == 13 || line.first == 10 {
            // Interim heads (RFC 9110 section 15.2) are followed by another; 101 is never asked for and never followed.
            if head.status >= 200 || head.status == 101 {
                isHeadDone = true
                readyHead = head
                loop.markDirty(self)
            }
        } else if let value = Self.value(of: "content-type", in: line) {
            head.contentType = value
        } else if let value = Self.value(of: "retry-after", in: line) {
            head.retryAfter = value
        }
        return true
    }

    /// - Returns: whether the bytes were taken; the same ones come again after a pause.
    func receiveBody(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard unacknowledged < window else {
            if !isPaused { pauses += 1 }
            isPaused = true
            return false
        }
        noteBytes()
        unacknowledged += bytes.count
        if readyBody.isEmpty { readyBody.reserveCapacity(bytes.count) }
        readyBody.append(contentsOf: bytes)
        loop.markDirty(self)
        return true
    }

    private func noteBytes() {
        phase = .receiving
        lastProgress = loop.now
    }

    // MARK: What the loop does

    /// - Returns: whether the transfer must be unpaused.
    func acknowledge(_ bytes: Int) -> Bool {
        unacknowledged = max(0, unacknowledged - bytes)
        guard isPaused, unacknowledged <= window / 2 else { return false }
        isPaused = false
        lastProgress = loop.now
        return true
    }

    func takeReady() -> (head: ResponseHead?, body: [UInt8]) {
        defer {
            readyHead = nil
            readyBody = []
        }
        return (readyHead, readyBody)
    }

    /// The timer that fires next, and when; nil where none runs.
    var deadline: (at: Int64, reason: TransferFailure.Reason)? {
        let timers = request.timers
        var next: (at: Int64, reason: TransferFailure.Reason)?
        if let total = timers.total { next = (started + total.nanoseconds, .totalTimer) }
        let phaseDeadline: (at: Int64, reason: TransferFailure.Reason)? =
            switch phase {
            case .resolving, .connecting: timers.connect.map { (started + $0.nanoseconds, .connectTimer) }
            case .waiting: timers.firstByte.map { (lastProgress + $0.nanoseconds, .firstByteTimer) }
            case .receiving: isPaused ? nil : timers.idle.map { (lastProgress + $0.nanoseconds, .idleTimer) }
            }
        if let phaseDeadline, phaseDeadline.at < next?.at ?? .max { next = phaseDeadline }
        return next
    }

    var wasAnswered: Bool { headerBytes > 0 }

    // MARK: Parsing

    private static func status(of line: UnsafeRawBufferPointer) -> Int {
        guard let space = line.firstIndex(of: 0x20) else { return 0 }
        var status = 0
        for byte in line[(space + 1)...].prefix(3) {
            guard byte >= 0x30, byte <= 0x39 else { return 0 }
            status = status * 10 + Int(byte - 0x30)
        }
        return status
    }

    private static func value(of name: StaticString, in line: UnsafeRawBufferPointer) -> String? {
        let length = name.utf8CodeUnitCount
        guard line.count > length, line[length] == UInt8(ascii: ":") else { return nil }
        for index in 0..<length {
            let byte = line[index]
            guard (byte | (byte >= 0x41 && byte <= 0x5A ? 0x20 : 0)) == name.utf8Start[index] else { return nil }
        }
        let value = line[(length + 1)...].prefix(257).filter { $0 >= 0x20 && $0 < 0x7F }
        guard value.count <= 256 else { return nil }
        var text = Substring(decoding: value, as: UTF8.self)
        while text.first == " " { text.removeFirst() }
        while text.last == " " { text.removeLast() }
        return String(text)
    }
}

extension Duration {
    var nanoseconds: Int64 { components.seconds * 1_000_000_000 + components.attoseconds / 1_000_000_000 }
}
