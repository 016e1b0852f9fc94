"""The core: types, requests, sampling, phases, combinators and drivers."""
