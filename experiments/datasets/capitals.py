"""Countries and their capitals, which a small language model knows."""

CAPITALS = {
  "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin",
  "Japan": "Tokyo", "Egypt": "Cairo", "Russia": "Moscow", "Greece": "Athens",
  "Portugal": "Lisbon", "Austria": "Vienna", "Ireland": "Dublin",
  "Cuba": "Havana", "Poland": "Warsaw", "Hungary": "Budapest",
  "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki",
  "Denmark": "Copenhagen", "Turkey": "Ankara", "Canada": "Ottawa",
  "Peru": "Lima", "Kenya": "Nairobi", "Thailand": "Bangkok", "China": "Beijing",
  "India": "New Delhi", "Iran": "Tehran", "Iraq": "Baghdad",
  "Vietnam": "Hanoi", "Belgium": "Brussels", "Chile": "Santiago",
}  # fmt: skip
