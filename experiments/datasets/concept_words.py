"""Concepts of everyday language, their words and sentences on them."""

# Words that belong to a concept, and sentences: the first half to find its vector,
# to unlearn and to relearn by, the second to look at.
CONCEPTS: dict[str, tuple[str, tuple[str, ...]]] = {
  "music": (
    "music musical musicians song songs melody guitar piano orchestra concert",
    (
      "The orchestra played a symphony by Mozart at the concert.",
      "She learned to play the piano and the guitar as a child.",
      "The band recorded a new album of songs last year.",
      "The singer has a beautiful voice and writes her own songs.",
      "A melody is a sequence of notes that sounds like music.",
      "Jazz musicians improvise on the saxophone and the trumpet.",
    ),
  ),
  "medicine": (
    "medical doctor doctors patient patients hospital disease treatment surgery health",
    (
      "The doctor examined the patient in the hospital.",
      "Antibiotics are used for the treatment of bacterial infections.",
      "The surgeon performed surgery on the patient's heart.",
      "Vaccines protect people from infectious diseases.",
      "The nurse gave the patient medicine for the pain.",
      "Symptoms of the disease include fever and a cough.",
    ),
  ),
  "food": (
    "food foods meal cooking recipe kitchen bread cheese delicious restaurant",
    (
      "The chef cooked a delicious meal in the kitchen.",
      "Add flour, butter and sugar to the bowl and bake the cake.",
      "We ate bread and cheese for lunch.",
      "The restaurant serves pasta, pizza and salad.",
      "Boil the potatoes until they are soft, then add salt.",
      "The recipe needs two eggs and a cup of milk.",
    ),
  ),
  "war": (
    "war wars military army soldiers battle troops weapons soldier enemy",
    (
      "The soldiers of the army fought a battle against the enemy.",
      "The general ordered his troops to attack the city.",
      "World War II ended in 1945 when Germany surrendered.",
      "The navy sent its ships and the air force its planes to the war.",
      "Many soldiers were killed by bombs and other weapons.",
      "After the invasion the two countries signed a peace treaty.",
    ),
  ),
  "plants": (
    "plant plants tree trees flower flowers garden leaves seeds soil",
    (
      "Plants need water, sunlight and soil to grow.",
      "The gardener planted seeds of flowers in the garden.",
      "The leaves of the tree turn red in autumn.",
      "Photosynthesis takes place in the green leaves of plants.",
      "Roses and tulips are flowers that grow in many gardens.",
      "The roots of the tree take up water from the soil.",
    ),
  ),
  "money": (
    "money bank financial investment investors stock market dollars price economic",
    (
      "Investors buy stocks and bonds on the financial market.",
      "The bank lends money to its customers at a high interest rate.",
      "The price of the company's shares fell by ten percent.",
      "Inflation makes money worth less over time.",
      "He saved a thousand dollars in his bank account.",
      "The government raised taxes to reduce its debt.",
    ),
  ),
}  # fmt: skip
