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
    /// Nil for a host that is an address, and once the request is on its way.
    var race: AddressRace?

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
    /// Outlives every transfer of its own, so that nothing has to check it, as each of curl's callbacks would.
    private unowned(unsafe) let loop: CurlLoop

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
        let fd = loop.openSocket(address, for: self)
        guard race != nil, let offset = MemoryLayout<curl_sockaddr>.offset(of: \.addr) else { return fd }
        let socketAddress = (UnsafeRawPointer(address) + offset).assumingMemoryBound(to: sockaddr.self)
        if let text = HostTable.text(of: socketAddress, length: address.pointee.addrlen) {
            race?.open(text, socket: fd, now: loop.now)
            loop.schedule(self)
        }
        // As of a family that the system does not have.
        if fd == CURL_SOCKET_BAD { loop.noteRefusal(fd) }
        return fd
    }

    /// Runs before every send of the request; the second one is curl's hidden replay on another idle connection.
    /// - Parameter address: of the upstream, as numbers.
    func mayContinueToSend(to address: UnsafePointer<CChar>?) -> Bool {
        sends += 1
        guard sends == 1 else {
            abortReason = .noReply
            return false
        }
        phase = .waiting
        lastProgress = loop.now
        if let race, let address {
            let winner = String(cString: address)
            for silent in race.silent(before: winner) { loop.noteSilence(of: silent, of: request.target.host) }
        }
        race = nil
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
        if let total = timers.total { next = (started + total, .totalTimer) }
        let phaseDeadline: (at: Int64, reason: TransferFailure.Reason)? =
            switch phase {
            case .resolving, .connecting: timers.connect.map { (started + $0, .connectTimer) }
            case .waiting: timers.firstByte.map { (lastProgress + $0, .firstByteTimer) }
            case .receiving: isPaused ? nil : timers.idle.map { (lastProgress + $0, .idleTimer) }
            }
        if let phaseDeadline, phaseDeadline.at < next?.at ?? .max { next = phaseDeadline }
        return next
    }

    /// When the addresses that curl has not opened are tried instead; nil where there are none.
    var nextAddressAt: Int64? {
        guard phase == .connecting, let time = request.timers.connect ?? request.timers.total else { return nil }
        return race?.nextAt(end: started + time)
    }

    /// Whether curl must be called for it to open an address, after another one refused.
    var canOpenAnother: Bool {
        guard phase == .connecting, let race, let easy else { return false }
        return !race.untried.isEmpty && easy.localPort <= 0
    }

    var wasAnswered: Bool { reader.hasBegun }
}

extension Duration {
    var nanoseconds: Int64 { Int64(attoseconds / 1_000_000_000) }
}
