import Dispatch
import Support

@testable import CurlMulti

/// A name service that answers nobody until it is told to.
final class HangingNames: Sendable {
    private let asked = Gate()
    private let answers = DispatchSemaphore(value: 0)

    var configuration: CurlEngineConfiguration {
        var configuration = CurlEngineConfiguration()
        configuration.lookUp = { [asked, answers] _ in
            asked.open()
            answers.wait()
            return []
        }
        return configuration
    }

    /// Until a look-up hangs.
    func wasAsked() async { await asked.wait() }

    /// Lets one look-up end.
    func answer() { answers.signal() }
}
