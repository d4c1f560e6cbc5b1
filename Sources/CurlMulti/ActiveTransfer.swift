import CCurl
import Glibc

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

    /// Nil while the host's name is looked up.
    var easy: EasyHandle?
    var pin: HostTable.Pin?
    /// Those of the host that are yet to be tried, the present one first; none for a host that is an address.
    var addresses: [String] = []
    /// When the connection with the present address began.
    var addressStarted: Int64 = 0

    var phase: Phase
    /// When the present phase began, or the last bytes came.
    var lastProgress: Int64
    var isPaused = false
    var pauses: UInt64 = 0
    private var unacknowledged = 0
    private var sends = 0
    private(set) var abortReason: TransferFailure.Reason?

    private var reader: ResponseHeadReader
    /// For the receiver: taken at the end of the turn.
    var update = TransferUpdate()
    var isDirty = false
    /// Outlives every transfer of its own.
    private unowned let loop: CurlLoop

    /// Nanoseconds.
    private static let leastTimePerAddress: Int64 = 300_000_000

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
        reader = ResponseHeadReader(limit: configuration.maxHeaderBytes)
        started = loop.now
        lastProgress = started
    }

    // MARK: What curl's callbacks do

    /// A connection that is opened after the request was sent is for curl's hidden replay of it.
    func openSocket(_ address: UnsafePointer<curl_sockaddr>) -> curl_socket_t {
        guard sends == 0 else {
            abortReason = .noReply
            return CURL_SOCKET_BAD
        }
        noteAddress(address)
        return loop.openSocket(address)
    }

    /// curl goes on to the next address by itself where one refuses, or is slow and of the other family.
    private func noteAddress(_ address: UnsafePointer<curl_sockaddr>) {
        guard addresses.count > 1, let offset = MemoryLayout<curl_sockaddr>.offset(of: \.addr) else { return }
        let socketAddress = (UnsafeRawPointer(address) + offset).assumingMemoryBound(to: sockaddr.self)
        guard let text = HostTable.text(of: socketAddress, length: address.pointee.addrlen),
            let index = addresses.firstIndex(of: text), index > 0
        else { return }
        addresses.removeFirst(index)
        addressStarted = loop.now
    }

    /// Runs before every send of the request; the second one is curl's hidden replay on another idle connection.
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
        switch reader.read(line) {
        case .more: return true
        case .head(let head):
            update.head = head
            if let easy {
                update.connectTime = easy.connectTime
                // Some servers refuse without reading the body, and would take it for the next request.
                if head.status >= 400, request.body != nil { easy.forbidReuse() }
            }
            loop.markDirty(self)
            return true
        case .tooLarge:
            abortReason = .headTooLarge
            return false
        }
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
        if update.body.isEmpty { update.body.reserveCapacity(bytes.count) }
        update.body.append(contentsOf: bytes)
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

    func takeUpdate() -> TransferUpdate {
        defer { update = TransferUpdate() }
        return update
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

    /// When the next address is tried instead: each has an equal part of the time that is left for connecting, but none less
    /// than a far one needs. curl would give the first one half of it, but asks for no call at that moment (7.88). Nil where
    /// there is no other.
    var nextAddressAt: Int64? {
        let timers = request.timers
        guard phase == .connecting, addresses.count > 1, let time = timers.connect ?? timers.total else { return nil }
        let left = started + time.nanoseconds - addressStarted
        return addressStarted + max(left / Int64(addresses.count), Self.leastTimePerAddress)
    }

    var wasAnswered: Bool { reader.hasBegun }
}

extension Duration {
    var nanoseconds: Int64 { Int64(attoseconds / 1_000_000_000) }
}
