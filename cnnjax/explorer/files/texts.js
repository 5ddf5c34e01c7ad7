"use strict";
// What the page says: key -> [English, Spanish, Portuguese]. {name} is replaced by a value.
const LANGUAGES = ["en", "es", "pt"];
const TEXTS = {
  skip: ["Skip to the network", "Saltar a la red", "Saltar para a rede"],
  language: ["Language", "Idioma", "Idioma"],
  untrained: [
    "The weights of this network are drawn at random: its maps and classes mean nothing.",
    "Los pesos de esta red son aleatorios: sus mapas y clases no significan nada.",
    "Os pesos desta rede são aleatórios: os seus mapas e classes não significam nada.",
  ],
  picture: ["Picture", "Imagen", "Imagem"],
  picture_label: ["The picture that the network sees", "La imagen que ve la red", "A imagem que a rede vê"],
  labelled: ["labelled {label}", "etiqueta: {label}", "rótulo: {label}"],
  pad_label: [
    "Drawing pad: draw a digit with mouse or finger, or move with the arrow keys and press space to put ink",
    "Zona de dibujo: dibuja un dígito con el ratón o el dedo, o muévete con las flechas y pulsa espacio para pintar",
    "Área de desenho: desenhe um dígito com o rato ou o dedo, ou mova-se com as setas e carregue em espaço para pintar",
  ],
  pad_hint: ["Draw a digit here.", "Dibuja un dígito aquí.", "Desenhe um dígito aqui."],
  clear: ["Clear", "Borrar", "Apagar"],
  next: ["Next example", "Ejemplo siguiente", "Próximo exemplo"],
  upload: ["Upload a picture", "Subir una imagen", "Enviar uma imagem"],
  file_hint: [
    "This file holds a chosen set of pictures. The served page also takes drawings and uploads.",
    "Este archivo contiene un conjunto de imágenes. La página servida también acepta dibujos y archivos.",
    "Este ficheiro contém um conjunto de imagens. A página servida também aceita desenhos e ficheiros.",
  ],
  overlay: ["What speaks for it?", "¿Qué habla a favor?", "O que fala a favor?"],
  of_class: ["of the class", "de la clase", "da classe"],
  of_unit: ["of the chosen unit", "de la unidad elegida", "da unidade escolhida"],
  no_unit: [
    "Choose a unit at the end of a module, such as of a convolution or of a folded stage: those can be explained.",
    "Elige una unidad al final de un módulo, como una convolución o una etapa plegada: esas se pueden explicar.",
    "Escolha uma unidade no fim de um módulo, como uma convolução ou uma etapa dobrada: essas podem ser explicadas.",
  ],
  overlay_none: ["none", "nada", "nada"],
  overlay_of: ["For {class}. Click a bar for another class.", "Para {class}. Pulsa una barra para otra clase.", "Para {class}. Clique numa barra para outra classe."],
  overlay_file: ["For the best class, {class}.", "Para la mejor clase, {class}.", "Para a melhor classe, {class}."],
  saliency: ["saliency", "saliencia", "saliência"],
  grad_cam: ["Grad-CAM", "Grad-CAM", "Grad-CAM"],
  occlusion: ["occlusion", "oclusión", "oclusão"],
  deconvnet: ["deconvnet", "deconvnet", "deconvnet"],
  classes: ["Five best classes", "Las cinco mejores clases", "As cinco melhores classes"],
  network: ["Network", "Red", "Rede"],
  network_hint: [
    "From left to right. Click a unit to see how it was computed; arrow keys move between maps, Enter chooses. Names of stages fold and unfold.",
    "De izquierda a derecha. Pulsa una unidad para ver cómo se calculó; las flechas mueven entre mapas, Intro elige. Los nombres de etapas pliegan y despliegan.",
    "Da esquerda para a direita. Clique numa unidade para ver como foi calculada; as setas movem entre mapas, Enter escolhe. Os nomes das etapas dobram e desdobram.",
  ],
  scale: ["One scale per layer:", "Una escala por capa:", "Uma escala por camada:"],
  scale_ends: ["from the largest magnitude, negative, over 0 to positive", "de la mayor magnitud, negativa, por 0 a positiva", "da maior magnitude, negativa, por 0 a positiva"],
  all: ["all {n}", "todos: {n}", "todos: {n}"],
  fewer: ["fewer", "menos", "menos"],
  shown: ["{n} of {all}", "{n} de {all}", "{n} de {all}"],
  layers: ["{n} layers", "{n} capas", "{n} camadas"],
  fold: ["Fold {name}", "Plegar {name}", "Dobrar {name}"],
  unfold: ["Unfold {name}", "Desplegar {name}", "Desdobrar {name}"],
  map: ["{layer}, map {n}", "{layer}, mapa {n}", "{layer}, mapa {n}"],
  units: ["{layer}, {n} units", "{layer}, {n} unidades", "{layer}, {n} unidades"],
  unit: ["One unit", "Una unidad", "Uma unidade"],
  unit_hint: ["Click a unit of the network above.", "Pulsa una unidad de la red de arriba.", "Clique numa unidade da rede acima."],
  unit_at: ["{layer}, map {c}, row {y}, column {x}", "{layer}, mapa {c}, fila {y}, columna {x}", "{layer}, mapa {c}, linha {y}, coluna {x}"],
  unit_number: ["{layer}, unit {c}", "{layer}, unidad {c}", "{layer}, unidade {c}"],
  its_map: ["Its map (arrow keys move the unit)", "Su mapa (las flechas mueven la unidad)", "O seu mapa (as setas movem a unidade)"],
  value: ["value", "valor", "valor"],
  network_value: ["The network's own number: {value}", "El número de la propia red: {value}", "O número da própria rede: {value}"],
  input: ["input", "entrada", "entrada"],
  kernel: ["kernel", "núcleo", "núcleo"],
  weights: ["weights", "pesos", "pesos"],
  products: ["products", "productos", "produtos"],
  window: ["window", "ventana", "janela"],
  input_map: ["input map {n} of {all}", "mapa de entrada {n} de {all}", "mapa de entrada {n} de {all}"],
  previous_map: ["previous input map", "mapa de entrada anterior", "mapa de entrada anterior"],
  next_map: ["next input map", "mapa de entrada siguiente", "mapa de entrada seguinte"],
  sum_map: ["sum of this map: {value}", "suma de este mapa: {value}", "soma deste mapa: {value}"],
  sum_all: ["sum of {n} products: {value}", "suma de {n} productos: {value}", "soma de {n} produtos: {value}"],
  sum_values: ["sum of {n} values: {value}", "suma de {n} valores: {value}", "soma de {n} valores: {value}"],
  max_values: ["largest of {n} values: {value}", "mayor de {n} valores: {value}", "maior de {n} valores: {value}"],
  min_values: ["smallest of {n} values: {value}", "menor de {n} valores: {value}", "menor de {n} valores: {value}"],
  sums_by_map: ["sums by input map", "sumas por mapa de entrada", "somas por mapa de entrada"],
  bias: ["bias", "sesgo", "viés"],
  padding_note: ["Dashed cells are padding.", "Las celdas discontinuas son relleno.", "As células tracejadas são preenchimento."],
  step: ["Step", "Paso", "Passo"],
  play: ["Play", "Reproducir", "Reproduzir"],
  pause: ["Pause", "Pausa", "Pausa"],
  restart: ["Restart", "Reiniciar", "Reiniciar"],
  progress: ["{n} of {all}: {text}; so far {total}", "{n} de {all}: {text}; hasta ahora {total}", "{n} de {all}: {text}; até agora {total}"],
  then: ["Then {layer} makes of it", "Después {layer} lo convierte en", "Depois {layer} transforma-o em"],
  from: ["Computed from", "Calculado a partir de", "Calculado a partir de"],
  copy_of: ["This unit is a copy:", "Esta unidad es una copia:", "Esta unidade é uma cópia:"],
  copy_none: ["This unit is padding: nothing is copied here.", "Esta unidad es relleno: aquí no se copia nada.", "Esta unidade é preenchimento: aqui nada é copiado."],
  not_shown: [
    "The page does not show the arithmetic of this operation ({name}), only its values.",
    "La página no muestra la aritmética de esta operación ({name}), solo sus valores.",
    "A página não mostra a aritmética desta operação ({name}), só os seus valores.",
  ],
  not_in_file: [
    "This network has too many numbers for a file: the served page shows its arithmetic.",
    "Esta red tiene demasiados números para un archivo: la página servida muestra su aritmética.",
    "Esta rede tem números demais para um ficheiro: a página servida mostra a sua aritmética.",
  ],
  image_unit: ["A pixel of the picture, less the mean, over the standard deviation of the training pictures.", "Un píxel de la imagen, menos la media, entre la desviación típica de las imágenes de entrenamiento.", "Um píxel da imagem, menos a média, sobre o desvio padrão das imagens de treino."],
  class: ["class", "clase", "classe"],
  logit: ["logit z", "logit z", "logit z"],
  exponential: ["exp(z − largest z)", "exp(z − mayor z)", "exp(z − maior z)"],
  probability: ["probability", "probabilidad", "probabilidade"],
  total: ["sum", "suma", "soma"],
  widget: ["What size, padding, kernel, stride and dilation do", "Qué hacen tamaño, relleno, núcleo, paso y dilatación", "O que fazem tamanho, preenchimento, núcleo, passo e dilatação"],
  widget_hint: ["The window moves over the padded input; each place of it gives one unit of the output.", "La ventana se mueve sobre la entrada rellenada; cada lugar da una unidad de la salida.", "A janela move-se sobre a entrada preenchida; cada lugar dá uma unidade da saída."],
  size: ["input size", "tamaño de entrada", "tamanho da entrada"],
  padding: ["padding", "relleno", "preenchimento"],
  kernel_size: ["kernel", "núcleo", "núcleo"],
  stride: ["stride", "paso", "passo"],
  dilation: ["dilation", "dilatación", "dilatação"],
  output: ["output", "salida", "saída"],
  does_not_fit: ["The kernel does not fit the padded input: give a larger input, more padding, or a smaller kernel.", "El núcleo no cabe en la entrada rellenada: usa una entrada mayor, más relleno o un núcleo menor.", "O núcleo não cabe na entrada preenchida: use uma entrada maior, mais preenchimento ou um núcleo menor."],
  widget_at: ["Output unit ({y}, {x}) of {n} x {n} sees rows {rows} and columns {columns}.", "La unidad de salida ({y}, {x}) de {n} x {n} ve las filas {rows} y columnas {columns}.", "A unidade de saída ({y}, {x}) de {n} x {n} vê as linhas {rows} e colunas {columns}."],
  not_an_image: ["This file is no picture that can be read. Choose a PNG or JPEG file.", "Este archivo no es una imagen legible. Elige un archivo PNG o JPEG.", "Este ficheiro não é uma imagem legível. Escolha um ficheiro PNG ou JPEG."],
  too_large: ["This file is too large: at most 8 MB.", "Este archivo es demasiado grande: como máximo 8 MB.", "Este ficheiro é grande demais: no máximo 8 MB."],
  gone: ["The server does not answer. Is it still running?", "El servidor no responde. ¿Sigue en marcha?", "O servidor não responde. Ainda está a funcionar?"],
  failed: ["This did not work: {message}", "Esto no funcionó: {message}", "Isto não funcionou: {message}"],
  prediction: ["The network says {class}, {percent}", "La red dice {class}, {percent}", "A rede diz {class}, {percent}"],
  // Kinds of layers.
  "image": ["image", "imagen", "imagem"],
  "conv": ["conv", "convolución", "convolução"],
  "depthwise conv": ["depthwise conv", "convolución por canal", "convolução por canal"],
  "grouped conv": ["grouped conv", "convolución por grupos", "convolução por grupos"],
  "transposed conv": ["transposed conv", "convolución traspuesta", "convolução transposta"],
  "dense": ["dense", "densa", "densa"],
  "batch norm": ["batch norm", "batch norm", "batch norm"],
  "layer norm": ["layer norm", "layer norm", "layer norm"],
  "max pool": ["max pool", "máximos", "máximos"],
  "average pool": ["average pool", "promedios", "médias"],
  "sum pool": ["sum pool", "sumas", "somas"],
  "min pool": ["min pool", "mínimos", "mínimos"],
  "global average": ["global average", "promedio global", "média global"],
  "global max": ["global max", "máximo global", "máximo global"],
  "flatten": ["flatten", "aplanar", "achatar"],
  "rearrange": ["rearrange", "reordenar", "reordenar"],
  "concatenate": ["concatenate", "concatenar", "concatenar"],
  "broadcast": ["repeat", "repetir", "repetir"],
  "select": ["select", "elegir", "escolher"],
  "slice": ["slice", "recortar", "recortar"],
  "split": ["split", "partir", "partir"],
  "pad": ["pad", "rellenar", "preencher"],
  "add": ["add", "sumar", "somar"],
  "multiply": ["multiply", "multiplicar", "multiplicar"],
  "subtract": ["subtract", "restar", "subtrair"],
  "divide": ["divide", "dividir", "dividir"],
  "maximum": ["maximum", "máximo", "máximo"],
  "softmax": ["softmax", "softmax", "softmax"],
};

let language = "en";

// Return a text in the chosen language; a word that is not in the table stays as it is.
function t(key, values = {}) {
  const row = Object.hasOwn(TEXTS, key) ? TEXTS[key] : null;
  const text = row ? row[LANGUAGES.indexOf(language)] : key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? values[name] : whole));
}

// Write the texts that the page itself has.
function writeTexts() {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = t(element.dataset.text);
  for (const element of document.querySelectorAll("[data-label]"))
    element.setAttribute("aria-label", t(element.dataset.label));
}

// Return a number with four digits, as the tests compare it.
function digits(value) {
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e5 || size < 1e-4)) return value.toExponential(3).replace("-", "−").replace("e−", "e-").replace("e+", "e");
  return (Number.isInteger(value) ? String(value) : value.toPrecision(4)).replace("-", "−");
}
